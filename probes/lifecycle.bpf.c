/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Which connections open and end, how they end, what is reset and sent again? Counted by port: the local one where
 * this machine is the server, the remote one where it is the client, whose own ports differ in each connection.
 *
 * Rungs: RESET_REASON   tcp_send_reset tells why, and tells also of resets without a socket (Linux 6.11)
 *        (none)         it names neither
 */
enum { PORTS_FULL, EVENTS_FULL, ROLES_FULL };
enum { TCP_SYN_SENT = 2, TCP_TIME_WAIT = 6, TCP_NEW_SYN_RECV = 12 };
enum { SERVER, CLIENT, NO_CONNECTION };
enum { ENDED, RESET_SENT, RESET_RECEIVED };

struct place {
  u64 netns_cookie;
  u32 netns;
  u16 port;
  u16 role;
};

struct counts {
  u64 opened;
  u64 left; /* the state ESTABLISHED: opened - left are in it */
  u64 retransmitted;
};

struct event {
  struct place at;
  u32 kind;
  u32 detail; /* ENDED, RESET_RECEIVED: the state before. RESET_SENT: enum sk_rst_reason */
};

BPF_PERCPU_HASH(ports, struct place, struct counts, PORTS);
BPF_PERCPU_HASH(events, struct event, u64, EVENTS);
BPF_HASH(census, struct place, u64, PORTS);

/* A child has its listener's backlog for life, and a socket that connects has none: so the role of a connection
 * needs no entry of its own. But for a child of listen(fd, 0), and a listener that turned client. */
BPF_HASH(odd_roles, u64, u32, ROLES);
BPF_ARRAY(odd_ones_came, u32, 1); /* until one has come the map need not be searched */

static inline int any_odd(void) {
  int zero = 0;
  u32 *came = odd_ones_came.lookup(&zero);
  return came && *came;
}

static inline u32 role_by_backlog(u64 sk, int typed) {
  return FETCH(typed, u32, sk, SOCK_SK_MAX_ACK_BACKLOG) ? SERVER : CLIENT;
}

static inline u32 role_of(u64 sk, int typed) {
  u64 key = sk;
  u32 *odd = any_odd() ? odd_roles.lookup(&key) : 0;
  return odd ? *odd : role_by_backlog(sk, typed);
}

static inline void forget_role(u64 sk) {
  if (any_odd()) odd_roles.delete(&sk);
}

static inline void set_role(u64 sk, u32 role, int typed) {
  if (role == role_by_backlog(sk, typed)) {
    forget_role(sk);
    return;
  }
  int zero = 0;
  u32 one = 1;
  odd_ones_came.update(&zero, &one);
  if (odd_roles.update(&sk, &role)) lose(ROLES_FULL);
}

static inline void read_netns(u64 net, struct place *to, int typed) {
  to->netns_cookie = FETCH(typed, u64, net, NET_NET_COOKIE);
  to->netns = FETCH(typed, u32, net, NET_INUM);
}

static inline u16 port_of(u64 sk, u32 role, int typed) {
  if (role == CLIENT) return bpf_ntohs(FETCH(typed, u16, sk, SOCK_SKC_DPORT));
  u16 local = FETCH(typed, u16, sk, SOCK_SKC_NUM);
  return local ? local : bpf_ntohs(READ(u16, sk, INET_SOCK_INET_SPORT)); /* given back before the state is told */
}

static inline void read_place(u64 sk, struct place *to, int typed) {
  read_netns(FETCH(typed, u64, sk, SOCK_NET), to, typed);
  u32 role = role_of(sk, typed);
  to->role = role;
  to->port = port_of(sk, role, typed);
}

static inline struct counts *counts_of(u64 sk, int typed) {
  struct place at = {};
  read_place(sk, &at, typed);
  struct counts none = {}, *found = ports.lookup_or_try_init(&at, &none);
  if (!found) lose(PORTS_FULL);
  return found;
}

static inline void count(struct event *event) {
  u64 none = 0, *found = events.lookup_or_try_init(event, &none);
  if (found)
    ++*found;
  else
    lose(EVENTS_FULL);
}

static inline void count_at(u64 sk, u32 kind, u32 detail) { /* a typed socket */
  struct event event = {.kind = kind, .detail = detail};
  read_place(sk, &event.at, TYPED);
  count(&event);
}

RAW_TRACEPOINT(set_state) {
  u64 sk = ctx->args[0];
  u32 from = ctx->args[1], to = ctx->args[2];
  if (from == to || LOAD(u16, sk, SOCK_SK_PROTOCOL) != IPPROTO_TCP) return 0;
  if (to == TCP_SYN_SENT) set_role(sk, CLIENT, TYPED);
  if (from == TCP_LISTEN && to == TCP_SYN_RECV) set_role(sk, SERVER, TYPED);
  /* With TCP Fast Open a child may be closed before the handshake is over: it opens and leaves at once. */
  u32 opens = (from == TCP_SYN_SENT || from == TCP_SYN_RECV) && to != TCP_SYN_RECV && to != TCP_CLOSE;
  u32 leaves = from == TCP_ESTABLISHED || (opens && to != TCP_ESTABLISHED);
  if (opens || leaves) {
    struct counts *mine = counts_of(sk, TYPED);
    if (mine) {
      mine->opened += opens;
      mine->left += leaves;
    }
  }
  if (to == TCP_CLOSE && from != TCP_LISTEN) count_at(sk, ENDED, from);
  return 0;
}

RAW_TRACEPOINT(destroy) {
  forget_role(ctx->args[0]);
  return 0;
}

RAW_TRACEPOINT(retransmit) {
  struct counts *mine = counts_of(ctx->args[0], UNTYPED);
  if (mine) mine->retransmitted += READ(u16, ctx->args[1], SK_BUFF_CB + TCP_SKB_CB_TCP_GSO_SEGS);
  return 0;
}

RAW_TRACEPOINT(reset_received) {
  u64 sk = ctx->args[0];
  count_at(sk, RESET_RECEIVED, LOAD(u8, sk, SOCK_SKC_STATE));
  return 0;
}

RAW_TRACEPOINT(reset_sent) {
  u64 sk = ctx->args[0];
  struct event event = {.kind = RESET_SENT};
#ifdef RESET_REASON
  event.detail = ctx->args[2];
#endif
  u8 state = sk ? READ(u8, sk, SOCK_SKC_STATE) : TCP_CLOSE;
  if (!sk || state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV) {
    u64 device = READ(u64, ctx->args[1], SK_BUFF_DEV);
    read_netns(sk ? READ(u64, sk, SOCK_NET) : READ(u64, device, NET_DEVICE_NET), &event.at, UNTYPED);
    event.at.role = NO_CONNECTION; /* and no port: whoever scans them would fill the map */
  } else {
    read_place(sk, &event.at, UNTYPED);
    if (state == TCP_LISTEN) {
      event.at.role = SERVER;
      event.at.port = bpf_ntohs(READ(u16, sk, INET_SOCK_INET_SPORT));
    }
  }
  count(&event);
  return 0;
}

/* Those that are established already, in the reader's network namespace. */
struct bpf_iter__tcp {
  void *meta;
  void *sk_common;
  u32 uid;
};
int bpf_iter__tcp(struct bpf_iter__tcp *ctx) {
  u64 sk = (u64)ctx->sk_common;
  if (!sk || READ(u8, sk, SOCK_SKC_STATE) != TCP_ESTABLISHED) return 0;
  struct place at = {};
  read_place(sk, &at, UNTYPED);
  u64 none = 0, *found = census.lookup_or_try_init(&at, &none);
  if (found)
    ++*found;
  else
    lose(PORTS_FULL);
  return 0;
}
