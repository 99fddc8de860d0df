/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * How many half-open connections does each listener hold, and how often is its SYN-ACK sent again?
 *
 * No tracepoint tells that a SYN has come. The depth is read whenever another event leads to the listener, and at
 * each reading: an unanswered SYN-ACK is sent again after a second, so nothing that lasts is missed.
 *
 * Rungs: HOOK_DATA_READY   looks also whenever a handshake has ended (Linux 6.2)
 *        WARNED_SIZE       bytes of synflood_warned: 4 until it became an u8
 */
enum { LISTENERS_FULL, NO_LISTENER };

#if WARNED_SIZE == 4
typedef u32 warned;
#else
typedef u8 warned;
#endif

struct listener {
  u64 sk;
  struct endpoint at;
  u32 depth; /* icsk_accept_queue.qlen, when last looked at */
  u32 young; /* of these, whose SYN-ACK was sent only once */
  u32 backlog;
  u32 max_syn_backlog; /* this and the next: sysctls of its network namespace */
  u32 syncookies;
  u32 flooded;
  u32 drops; /* sk_drops */
  u32 first_drops;
  u32 closed;
};

struct counts {
  u64 retransmitted;
  struct peak deepest;
};

BPF_HASH(listeners, u64, struct listener, LISTENERS);
BPF_PERCPU_HASH(counts, u64, struct counts, LISTENERS);
BPF_ARRAY(interval, u32, 1);

static inline void look(u64 sk, struct listener *to) {
  u64 net = READ(u64, sk, SOCK_NET);
  to->depth = READ(u32, sk, INET_CONNECTION_SOCK_QLEN);
  to->young = READ(u32, sk, INET_CONNECTION_SOCK_YOUNG);
  to->backlog = READ(u32, sk, SOCK_SK_MAX_ACK_BACKLOG);
  to->max_syn_backlog = READ(u32, net, NET_SYSCTL_MAX_SYN_BACKLOG);
  to->syncookies = READ(u8, net, NET_SYSCTL_TCP_SYNCOOKIES);
  to->flooded = READ(warned, sk, INET_CONNECTION_SOCK_SYNFLOOD_WARNED) != 0;
  to->drops = READ(u32, sk, SOCK_SK_DROPS);
}

static inline void meet(u64 sk, u64 inode) {
  struct listener listener = {.sk = sk};
  read_endpoint(sk, &listener.at);
  look(sk, &listener);
  listener.first_drops = listener.drops;
  int failed = listeners.insert(&inode, &listener);
  if (failed && failed != -17 /* EEXIST */) lose(LISTENERS_FULL);
}

static inline int seen(u64 sk, u32 depth, u32 retransmitted) {
  u64 inode = socket_inode(sk, UNTYPED);
  if (!inode) {
    if (is_tcp_listener(sk, UNTYPED)) lose(NO_LISTENER); /* else it is being closed, and its SYN-ACKs are nobody's */
    return 0;
  }
  struct counts *mine = counts.lookup(&inode);
  if (!mine) {
    meet(sk, inode);
    struct counts none = {};
    counts.insert(&inode, &none);
    mine = counts.lookup(&inode);
    if (!mine) {
      lose(LISTENERS_FULL);
      return 0;
    }
  }
  int zero = 0;
  u32 *now = interval.lookup(&zero);
  if (!now) return 0;
  mine->retransmitted += retransmitted;
  raise(&mine->deepest, *now, depth);
  return 0;
}

RAW_TRACEPOINT(retransmit) {
  u64 sk = READ(u64, ctx->args[1], REQUEST_SOCK_SKC_LISTENER); /* args[0] is the child with TCP Fast Open */
  return seen(sk, READ(u32, sk, INET_CONNECTION_SOCK_QLEN), 1);
}

#ifdef HOOK_DATA_READY
RAW_TRACEPOINT(data_ready) {
  u64 sk = ctx->args[0];
  if (!is_tcp_listener(sk, TYPED)) return 0;
  u32 depth = READ(u32, sk, INET_CONNECTION_SOCK_QLEN); /* beyond struct sock */
  return depth ? seen(sk, depth, 0) : 0;
}
#endif

RAW_TRACEPOINT(set_state) {
  u64 sk = ctx->args[0];
  int from = ctx->args[1], to = ctx->args[2];
  if (from == to || (from != TCP_LISTEN && to != TCP_LISTEN)) return 0;
  if (LOAD(u16, sk, SOCK_SK_PROTOCOL) != IPPROTO_TCP) return 0;
  u64 inode = socket_inode(sk, TYPED);
  if (!inode) return 0;
  if (to == TCP_LISTEN) {
    meet(sk, inode);
    return 0;
  }
  struct listener *listener = listeners.lookup(&inode);
  if (!listener) return 0;
  look(sk, listener);
  listener->closed = 1;
  return 0;
}

/* The listeners of the reader's network namespace. They come before all other sockets: there it ends. */
struct bpf_iter__tcp {
  void *meta;
  void *sk_common;
  u32 uid;
};
int bpf_iter__tcp(struct bpf_iter__tcp *ctx) {
  u64 sk = (u64)ctx->sk_common;
  if (!sk) return 0;
  if (READ(u8, sk, SOCK_SKC_STATE) != TCP_LISTEN) return 1;
  u64 inode = socket_inode(sk, UNTYPED);
  if (inode && !listeners.lookup(&inode)) meet(sk, inode);
  return 0;
}

/* One that is known, whatever its namespace. Called by the reader. */
RAW_TRACEPOINT(refresh) {
  u64 inode = ctx->args[0];
  struct listener *listener = listeners.lookup(&inode);
  if (!listener || listener->closed) return 0;
  u64 sk = listener->sk;
  if (!is_tcp_listener(sk, UNTYPED) || socket_inode(sk, UNTYPED) != inode) {
    listener->closed = 1; /* and its memory is another socket's */
    return 0;
  }
  look(sk, listener);
  if (!listener->at.port) read_endpoint(sk, &listener->at); /* listen(2) without bind(2) finds its port later */
  return 0;
}
