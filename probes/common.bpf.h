/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Stands before every probe. The loader puts above it one #define for each field of a kernel struct that the
 * rung reads: its offset in bytes in the running kernel (SOCK_SKC_NUM for struct sock, __sk_common.skc_num).
 * No header of the kernel is included, and none need be installed.
 */
#define BPF_LICENSE Dual MIT/GPL

enum { TCP_ESTABLISHED = 1, TCP_SYN_RECV = 3, TCP_FIN_WAIT1 = 4, TCP_CLOSE = 7, TCP_LAST_ACK = 9, TCP_LISTEN = 10 };
enum { AF_INET = 2, AF_INET6 = 10, IPPROTO_TCP = 6 };

/* A field of a kernel struct; 0 where the address cannot be read. */
#define READ(type, address, offset)                                                      \
  ({                                                                                     \
    type value_ = 0;                                                                     \
    bpf_probe_read_kernel(&value_, sizeof(value_), (void *)((u64)(address) + (offset))); \
    value_;                                                                              \
  })

/* The same of an object whose type the verifier knows, in the program of a typed hook: a plain load, where READ is a
 * call of some 20 ns, and 0 too where the address cannot be read. In assembly, as bcc would turn it into that call.
 * The field must lie within the type: struct sock has no inet_sport. */
#define LOAD(type, object, offset)                                                                  \
  ({                                                                                                \
    u64 value_;                                                                                     \
    asm volatile("%0 = *(" #type " *)(%1 + %2)" : "=r"(value_) : "r"((u64)(object)), "i"(offset)); \
    (type) value_;                                                                                  \
  })

/* In a function for both; typed is a constant. */
#define FETCH(typed, type, object, offset) ((typed) ? LOAD(type, object, offset) : READ(type, object, offset))
enum { UNTYPED, TYPED };

/* What could not be counted, by cause (each probe has its own enum), so that it can be shown. */
BPF_PERCPU_ARRAY(lost, u64, 8);
static inline void lose(u32 cause) {
  u64 *count = lost.lookup(&cause);
  if (count) ++*count;
}

/* To what several CPUs count. A histogram for each CPU and listener would take too much memory, and those who
 * count for one listener wait for its lock anyway. */
#define ADD(counter, value) __sync_fetch_and_add(&(counter), (value))

/* A program on a raw tracepoint; its arguments are ctx->args[0] and so on. */
#define RAW_TRACEPOINT(name) int name(struct bpf_raw_tracepoint_args *ctx)

/* A program at the return of a system call, where the result is ctx->result (trace_event_raw_sys_exit). */
struct syscall_exit {
  u64 common;
  s64 number;
  s64 result;
};
#define SYSCALL_EXIT(name) int name(struct syscall_exit *ctx)

/* Helpers by their number (linux/bpf.h), because bcc 0.26 has no name for them. The task is the current one. */
static u64 (*current_task_btf)(void) = (void *)158; /* bpf_get_current_task_btf */
static u64 (*task_pt_regs)(u64 task) = (void *)175; /* bpf_task_pt_regs */

/* The largest value in each interval between two readings: of the odd and of the even ones apart, so that the one
 * that has ended can be read while the next is being counted. The reader counts the intervals. Each is kept with
 * its interval above it, so a later interval's value is always the larger number. */
struct peak {
  u64 packed[2];
};
static inline void raise(struct peak *peak, u32 interval, u32 value) {
  u64 *kept = &peak->packed[interval & 1], mine = (u64)interval << 32 | value;
#pragma clang loop unroll(disable)
  for (int i = 0; i < 32; i++) { /* each failure means that another CPU has just raised it */
    u64 old = *kept;
    if (mine <= old || __sync_val_compare_and_swap(kept, old, mine) == old) return;
  }
}

/* The bucket of connprobe/plan/histogram.py: 64 for each power of two, so values to 127 are told apart. */
static inline u32 bucket(u64 value) {
  if (value < 64) return value;
  if (value > 0xffffffff) value = 0xffffffff;
  u32 shift = bpf_log2(value) - 6;
  return (shift << 6) + (value >> shift);
}

/* One more in a bucket; in the last one where there are not so many. The asm keeps clang from a comparison of which
 * the verifier learns nothing. */
static inline void tally(u32 *counts, u32 buckets, u64 value) {
  u64 which = bucket(value);
  if (which >= buckets) which = buckets - 1;
  asm volatile("" : "+r"(which));
  if (which < buckets) ADD(counts[which], 1);
}

#ifdef SOCK_SKC_RCV_SADDR
/* Where a socket is bound, in which network namespace. */
struct endpoint {
  u64 netns_cookie;
  u32 netns; /* the inode that /proc/PID/ns/net shows */
  u16 port;
  u16 family;
  u8 address[16];
};

static inline void read_endpoint(u64 sk, struct endpoint *to) {
  u64 net = READ(u64, sk, SOCK_NET);
  to->netns_cookie = READ(u64, net, NET_NET_COOKIE);
  to->netns = READ(u32, net, NET_INUM);
  to->port = READ(u16, sk, SOCK_SKC_NUM);
  to->family = READ(u16, sk, SOCK_SKC_FAMILY);
  if (to->family == AF_INET6)
    bpf_probe_read_kernel(to->address, 16, (void *)(sk + SOCK_SKC_V6_RCV_SADDR));
  else
    bpf_probe_read_kernel(to->address, 4, (void *)(sk + SOCK_SKC_RCV_SADDR));
}

/* The inode of a socket, as sock_diag and /proc/PID/fd show it: unlike its address it names one socket only
 * (get_next_ino wraps after four thousand million). 0: no process has it, or no longer. */
static inline u64 inode_of(u64 socket) {
  return socket ? READ(u64, socket - SOCKET_ALLOC_SOCKET + SOCKET_ALLOC_VFS_INODE, INODE_I_INO) : 0;
}

static inline u64 socket_inode(u64 sk, int typed) { return inode_of(FETCH(typed, u64, sk, SOCK_SK_SOCKET)); }

static inline int is_tcp_listener(u64 sk, int typed) {
  if (FETCH(typed, u8, sk, SOCK_SKC_STATE) != TCP_LISTEN) return 0; /* also that of AF_UNIX and SCTP */
  u16 family = FETCH(typed, u16, sk, SOCK_SKC_FAMILY);
  return (family == AF_INET || family == AF_INET6) && FETCH(typed, u16, sk, SOCK_SK_PROTOCOL) == IPPROTO_TCP;
}
#endif
