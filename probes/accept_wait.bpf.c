/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * How long does a connection wait between being queued and being accepted?
 *
 * Queued: in the softirq that queues it, the kernel notes the time in the child (rcvq_space.time, for its receive
 * window), and next when a process has read from it. So nothing need be kept of those that wait. Accepted: the
 * function of the kernel returns that has got the child from the listener, whoever called it. Or accept(2) returns a
 * descriptor that leads to the child, and its first argument, still in the registers, to the listener.
 *
 * Rungs: HOOK_FEXIT        the return of inet_accept and mptcp_stream_accept
 *        HOOK_SYSCALLS     the tracepoints of accept and accept4 alone
 *        HOOK_SYS_EXIT     the raw tracepoint of every system call's return, which needs no tracefs
 */
enum { LISTENERS_FULL, UNKNOWN_ACCEPTS };
enum { TCP_CLOSE_WAIT = 8, IPPROTO_MPTCP = 262 };
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

BPF_HASH(listeners, u64, struct met, LISTENERS);
BPF_HASH(waits, u64, struct waits, LISTENERS);
BPF_ARRAY(none, struct waits, 1); /* what a new one is copied from: too large for the stack */
BPF_HASH(abandoned, struct endpoint, u64, LISTENERS);
BPF_ARRAY(interval, u32, 1);

static inline void abandon(u64 child) {
  struct endpoint at = {};
  read_endpoint(child, &at);
  at.port = bpf_ntohs(READ(u16, child, INET_SOCK_INET_SPORT)); /* skc_num is 0 once its port is given back */
  u64 none = 0, *count = abandoned.lookup_or_try_init(&at, &none);
  if (count)
    ADD(*count, 1);
  else
    lose(LISTENERS_FULL);
}

RAW_TRACEPOINT(set_state) {
  u64 sk = ctx->args[0];
  int from = ctx->args[1], to = ctx->args[2];
  if (to != TCP_CLOSE) return 0;
  if (from == TCP_LISTEN) {
    u64 inode = socket_inode(sk, TYPED);
    struct met *met = listeners.lookup(&inode);
    if (met) met->closed = 1;
  } else if (from == TCP_ESTABLISHED || from == TCP_CLOSE_WAIT) {
    /* No process has had it: who closes one goes by other states, or has it still. */
    if (!LOAD(u64, sk, SOCK_SK_SOCKET) && LOAD(u16, sk, SOCK_SK_PROTOCOL) == IPPROTO_TCP) abandon(sk);
  }
  return 0;
}

/* listener: its struct socket. */
static inline int accepted(u64 listener, u64 child, int typed) {
  u16 protocol = FETCH(typed, u16, child, SOCK_SK_PROTOCOL);
  if (protocol != IPPROTO_TCP) {
    if (protocol == IPPROTO_MPTCP) lose(UNKNOWN_ACCEPTS);
    return 0;
  }
  u64 since = READ(u64, child, TCP_SOCK_TIME), until = bpf_ktime_get_ns() / 1000;
  u64 took = since && since < until ? until - since : 0; /* without a time: it is being queued */
  u64 inode = inode_of(listener);
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

#ifdef HOOK_FEXIT
static inline int accepted_by(struct bpf_raw_tracepoint_args *ctx) {
  u64 listener = ctx->args[0], connection = ctx->args[1];
  return (s32)ctx->args[RESULT] ? 0 : accepted(listener, LOAD(u64, connection, SOCKET_SK), TYPED);
}
RAW_TRACEPOINT(inet_accept) {
  u64 listener = ctx->args[0], sk = LOAD(u64, listener, SOCKET_SK);
  /* Before Linux 6.6 mptcp_stream_accept calls it, with a listener below its own. */
  if (LOAD(u64, sk, SOCK_SK_SOCKET) != listener || LOAD(u16, sk, SOCK_SK_PROTOCOL) == IPPROTO_MPTCP) return 0;
  return accepted_by(ctx);
}
RAW_TRACEPOINT(mptcp_stream_accept) { return accepted_by(ctx); }
#else
static inline u64 socket_of(u64 descriptors, u64 fd) {
  return READ(u64, READ(u64, descriptors + 8 * fd, 0), FILE_PRIVATE_DATA);
}

static inline int accepted_as(u64 task, u64 listening_fd, s64 fd) {
  if (fd < 0) return 0;
  u64 descriptors = LOAD(u64, LOAD(u64, LOAD(u64, task, TASK_STRUCT_FILES), FILES_STRUCT_FDT), FDTABLE_FD);
  u64 child = READ(u64, socket_of(descriptors, (u32)fd), SOCKET_SK);
  return accepted(socket_of(descriptors, (u32)listening_fd), child, UNTYPED);
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
  return accepted_as(task, READ(u64, registers, FIRST_ARGUMENT), ctx->result);
}
#endif

#ifdef HOOK_SYS_EXIT
RAW_TRACEPOINT(sys_exit) {
  u64 registers = ctx->args[0];
  u32 number = READ(u32, registers, SYSCALL_NUMBER);
  if (number != SYS_ACCEPT && number != SYS_ACCEPT4) return 0;
  return accepted_as(current_task_btf(), READ(u64, registers, FIRST_ARGUMENT), ctx->args[1]);
}
#endif
#endif
