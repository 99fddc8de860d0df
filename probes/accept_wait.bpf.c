/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * How long does a connection wait between being queued and being accepted?
 *
 * Queued: the child goes from SYN_RECV to ESTABLISHED in the softirq that queues it. Accepted: accept(2) returns a
 * descriptor that leads to the same socket, and its first argument, still in the registers, to the listener.
 *
 * Rungs: HOOK_SYSCALLS     the tracepoints of accept and accept4 alone
 *        HOOK_SYS_EXIT     the raw tracepoint of every system call's return, which needs no tracefs
 */
enum { WAITING_FULL, LISTENERS_FULL, UNKNOWN_ACCEPTS };
enum { TCP_CLOSE_WAIT = 8 };
enum { WAITS = 27 * 64 }; /* buckets for all of 32 bits */

struct met {
  struct endpoint at;
  u64 closed;
};

struct waits {
  u64 accepted;
  u64 total_us;
  struct peak longest_us;
  u32 counts[WAITS];
};

/* Connections that were queued and that no accept was seen to take, by where they arrived. */
struct gone {
  u64 unseen;    /* a process has had them: by io_uring, or as MPTCP */
  u64 abandoned; /* reset by the client, or the listener was closed */
};

BPF_HASH(waiting, u64, u64, WAITING); /* child: when it was queued, in ns of CLOCK_MONOTONIC */
BPF_HASH(listeners, u64, struct met, LISTENERS);
BPF_HASH(waits, u64, struct waits, LISTENERS);
BPF_ARRAY(none, struct waits, 1); /* what a new one is copied from: too large for the stack */
BPF_HASH(vanished, struct endpoint, struct gone, LISTENERS);
BPF_ARRAY(interval, u32, 1);

static inline void vanish(u64 child, int unseen) {
  struct endpoint at = {};
  read_endpoint(child, &at);
  at.port = bpf_ntohs(READ(u16, child, INET_SOCK_INET_SPORT)); /* skc_num is 0 once its port is given back */
  struct gone none = {}, *gone = vanished.lookup_or_try_init(&at, &none);
  if (!gone)
    lose(LISTENERS_FULL);
  else if (unseen)
    ADD(gone->unseen, 1);
  else
    ADD(gone->abandoned, 1);
  waiting.delete(&child);
}

RAW_TRACEPOINT(set_state) {
  u64 sk = ctx->args[0], child = sk;
  int from = ctx->args[1], to = ctx->args[2];
  if (from == TCP_SYN_RECV && to == TCP_ESTABLISHED) {
    if (LOAD(u64, sk, SOCK_SK_SOCKET)) return 0; /* accepted before, by TCP Fast Open; or both ends connected */
    u64 now = bpf_ktime_get_ns();
    if (waiting.update(&child, &now)) lose(WAITING_FULL);
  } else if (to == TCP_FIN_WAIT1 || to == TCP_LAST_ACK) { /* only whoever accepted it can close it */
    if (waiting.lookup(&child)) vanish(sk, 1);
  } else if (to == TCP_CLOSE) {
    if (from == TCP_LISTEN) {
      u64 inode = socket_inode(sk, TYPED);
      struct met *met = listeners.lookup(&inode);
      if (met) met->closed = 1;
    } else if (from == TCP_ESTABLISHED || from == TCP_CLOSE_WAIT || from == TCP_SYN_RECV) {
      if (waiting.lookup(&child)) vanish(sk, READ(u64, sk, SOCK_SK_SOCKET) != 0); /* all others have gone by now */
    }
  }
  return 0;
}

/* A child that waits for long: has a process got it? Called by the reader. */
RAW_TRACEPOINT(check) {
  u64 sk = ctx->args[0];
  if (waiting.lookup(&sk) && READ(u64, sk, SOCK_SK_SOCKET)) vanish(sk, 1);
  return 0;
}

static inline u64 socket_of(u64 descriptors, u64 fd) {
  return READ(u64, READ(u64, descriptors + 8 * fd, 0), FILE_PRIVATE_DATA);
}

static inline int accepted(u64 task, u64 listening_fd, s64 fd) {
  if (fd < 0) return 0;
  u64 descriptors = LOAD(u64, LOAD(u64, LOAD(u64, task, TASK_STRUCT_FILES), FILES_STRUCT_FDT), FDTABLE_FD);
  u64 child = READ(u64, socket_of(descriptors, (u32)fd), SOCKET_SK);
  u64 *since = waiting.lookup(&child);
  if (!since) {
    u16 family = READ(u16, child, SOCK_SKC_FAMILY);
    if (family == AF_INET || family == AF_INET6) lose(UNKNOWN_ACCEPTS);
    return 0;
  }
  u64 took = (bpf_ktime_get_ns() - *since) / 1000;
  waiting.delete(&child);
  u64 listener = socket_of(descriptors, (u32)listening_fd), inode = inode_of(listener);
  int zero = 0;
  u32 *now = interval.lookup(&zero);
  struct waits *mine = waits.lookup(&inode);
  if (!mine) {
    struct met met = {};
    read_endpoint(READ(u64, listener, SOCKET_SK), &met.at);
    struct waits *fresh = none.lookup(&zero);
    if (fresh && !listeners.update(&inode, &met)) waits.insert(&inode, fresh);
    mine = waits.lookup(&inode);
    if (!mine) lose(LISTENERS_FULL);
  }
  if (!mine || !now) return 0;
  ADD(mine->accepted, 1);
  ADD(mine->total_us, took);
  raise(&mine->longest_us, *now, took > 0xffffffff ? 0xffffffff : took);
  tally(mine->counts, WAITS, took);
  return 0;
}

#ifdef PT_REGS_ORIG_X0 /* arm64 */
#define FIRST_ARGUMENT PT_REGS_ORIG_X0
#define SYSCALL_NUMBER PT_REGS_SYSCALLNO
#else
#define FIRST_ARGUMENT PT_REGS_DI
#define SYSCALL_NUMBER PT_REGS_ORIG_AX
#endif

#ifdef HOOK_SYSCALLS
SYSCALL_EXIT(accept_returns) {
  u64 task = current_task_btf(), registers = task_pt_regs(task);
  return accepted(task, READ(u64, registers, FIRST_ARGUMENT), ctx->result);
}
#endif

#ifdef HOOK_SYS_EXIT
RAW_TRACEPOINT(sys_exit) {
  u64 registers = ctx->args[0];
  u32 number = READ(u32, registers, SYSCALL_NUMBER);
  if (number != SYS_ACCEPT && number != SYS_ACCEPT4) return 0;
  return accepted(current_task_btf(), READ(u64, registers, FIRST_ARGUMENT), ctx->args[1]);
}
#endif
