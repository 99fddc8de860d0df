/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * How full is each listener's accept queue when a connection is put into it, and what did it turn away?
 *
 * Rungs: HOOK_DATA_READY   the listener's sk_data_ready is called once for each connection queued (Linux 6.2)
 *        HOOK_SET_STATE    the child goes from SYN_RECV to ESTABLISHED; its listener is looked up by address
 *
 * And who has waited longest? The queue is first in, first out, so that tells who has left it, whoever took them.
 */
enum { LISTENERS_FULL, NO_LISTENER, GUESSED };
enum { ARRIVED = 1, CLOSED = 2, MMAPABLE = 1024 /* BPF_F_MMAPABLE */ };
enum { LONGEST = 0xfffffffd, UNKNOWN = 0xfffffffe, NOBODY_WAITS = 0xffffffff }; /* in place of microseconds */
enum { DEPTHS = 11 * 64 }; /* buckets for depths to 65535; deeper ones go into the last */

struct listener {
  u64 sk;
  struct endpoint at;
  u64 enqueued;    /* of struct counts, as depth was */
  u32 depth;       /* sk_ack_backlog, when last looked at */
  u32 capacity;    /* sk_max_ack_backlog + 1: the queue is full when there are more than the backlog */
  u32 drops;       /* sk_drops */
  u32 first_depth; /* as found: those were not counted as enqueued */
  u32 first_drops;
  u32 closed;
  u32 quiet; /* nobody waited at the last reading */
  u32 none;
};

struct counts {
  u64 enqueued;
  struct peak deepest;
  u32 depths[DEPTHS];
};

/* One look at a queue, as a connection arrived in it, as it was read, or as it was closed. */
struct look_at {
  u64 inode;
  u64 time_us;
  u64 lap; /* how often this place was written, times 4, what was seen (ARRIVED, CLOSED); and in the lower half for
            * how many microseconds the one who waits longest has waited. Written last */
};

BPF_HASH(listeners, u64, struct listener, LISTENERS);
BPF_HASH(counts, u64, struct counts, LISTENERS);
BPF_ARRAY(none, struct counts, 1); /* what a new one is copied from: too large for the stack */
BPF_ARRAY(interval, u32, 1);
BPF_F_TABLE("array", u32, struct look_at, looks, LOOKS, MMAPABLE); /* the last LOOKS, a power of two */
BPF_ARRAY(looked, u64, 1);

static inline u32 longest_wait(u64 sk, u64 now_us) {
  u64 first = READ(u64, sk, INET_CONNECTION_SOCK_RSKQ_ACCEPT_HEAD);
  if (!first) return NOBODY_WAITS;
  u64 since = READ(u64, READ(u64, first, REQUEST_SOCK_SK), TCP_SOCK_TIME); /* see accept_wait */
  if (!since || READ(u64, sk, INET_CONNECTION_SOCK_RSKQ_ACCEPT_HEAD) != first)
    return UNKNOWN; /* it is being queued, or was taken as we looked */
  u64 waited = since < now_us ? now_us - since : 0;
  return waited < LONGEST ? waited : LONGEST;
}

/* what: 0, ARRIVED or CLOSED. alone: the one that has come is known to be the only one. 1: nobody waits. */
static inline u32 note(u64 sk, u64 inode, u32 what, int alone) {
  int zero = 0;
  u64 *count = looked.lookup(&zero);
  if (!count) return 0;
  u64 before = ADD(*count, 1), now_us = bpf_ktime_get_ns() / 1000;
  u32 place = before % LOOKS;
  struct look_at *to = looks.lookup(&place);
  if (!to) return 0;
  u32 waited_us = alone ? 0 : longest_wait(sk, now_us);
  to->inode = inode;
  to->time_us = now_us;
  u64 old = to->lap, lap = (before / LOOKS + 1) << 2 | what;
  __sync_val_compare_and_swap(&to->lap, old, lap << 32 | waited_us); /* for every CPU after what is above it */
  return waited_us == NOBODY_WAITS;
}

static inline void look(u64 sk, u64 inode, struct listener *to) {
  struct counts *mine = counts.lookup(&inode);
  to->enqueued = mine ? mine->enqueued : 0; /* before the depth: so what has left the queue is no more than that */
  to->depth = READ(u32, sk, SOCK_SK_ACK_BACKLOG);
  to->capacity = READ(u32, sk, SOCK_SK_MAX_ACK_BACKLOG) + 1;
  to->drops = READ(u32, sk, SOCK_SK_DROPS);
}

#ifdef HOOK_SET_STATE
/* Listeners by address; those of an SO_REUSEPORT group take one slot each, which stays theirs until they close. */
enum { SLOTS = 64 };
struct place {
  struct endpoint at;
  u64 slot;
};
BPF_TABLE("lru_hash", struct place, u64, places, 8192);

static inline int listens_at(u64 sk, struct place *place) {
  return sk && is_tcp_listener(sk, UNTYPED) && READ(u16, sk, SOCK_SKC_NUM) == place->at.port;
}

static inline void add_place(u64 sk) {
  struct place place = {};
  read_endpoint(sk, &place.at);
  for (int i = 0; i < SLOTS; i++) {
    place.slot = i;
    u64 *held = places.lookup(&place);
    if (held && *held != sk && listens_at(*held, &place)) continue;
    if (places.update(&place, &sk)) lose(LISTENERS_FULL);
    return;
  }
  lose(LISTENERS_FULL);
}

/* The listener at this address whose queue ends with the child. */
static inline u64 listener_at(struct place *place, u64 child) {
  u64 found = 0;
  u32 several = 0;
  for (int i = 0; i < SLOTS; i++) {
    place->slot = i;
    u64 *held = places.lookup(place);
    if (!held) break;
    u64 sk = *held;
    if (!listens_at(sk, place)) continue;
    u64 last = READ(u64, sk, INET_CONNECTION_SOCK_RSKQ_ACCEPT_TAIL);
    if (last && READ(u64, last, REQUEST_SOCK_SK) == child) return sk;
    if (found) several = 1;
    found = sk;
  }
  if (several) lose(GUESSED); /* another CPU has queued one more meanwhile */
  return found;
}

static inline u64 listener_of(u64 child) {
  struct place place = {};
  read_endpoint(child, &place.at);
  u64 sk = listener_at(&place, child);
  if (sk) return sk;
  __builtin_memset(place.at.address, 0, 16);
  return listener_at(&place, child);
}
#else
static inline void add_place(u64 sk) {}
#endif

/* uncounted: 1 where a connection is in the queue that is about to be counted. */
static inline void meet(u64 sk, u64 inode, u32 uncounted) {
  struct listener listener = {.sk = sk};
  read_endpoint(sk, &listener.at);
  look(sk, inode, &listener);
  listener.first_depth = listener.depth - (listener.depth ? uncounted : 0);
  listener.first_drops = listener.drops;
  int failed = listeners.insert(&inode, &listener);
  if (!failed) add_place(sk);
  else if (failed != -17 /* EEXIST */) lose(LISTENERS_FULL);
}

static inline int enqueued(u64 sk, int typed) {
  u64 inode = socket_inode(sk, typed);
  if (!inode) {
    lose(NO_LISTENER);
    return 0;
  }
  int zero = 0;
  u32 *now = interval.lookup(&zero);
  struct counts *mine = counts.lookup(&inode);
  if (!mine) {
    meet(sk, inode, 1);
    struct counts *fresh = none.lookup(&zero);
    if (fresh) counts.insert(&inode, fresh);
    mine = counts.lookup(&inode);
    if (!mine) lose(LISTENERS_FULL);
  }
  if (!mine || !now) return 0;
  u32 depth = FETCH(typed, u32, sk, SOCK_SK_ACK_BACKLOG);
  ADD(mine->enqueued, 1);
  raise(&mine->deepest, *now, depth);
  tally(mine->depths, DEPTHS, depth);
  note(sk, inode, ARRIVED, depth == 1);
  return 0;
}

#ifdef HOOK_DATA_READY
RAW_TRACEPOINT(data_ready) {
  u64 sk = ctx->args[0];
  return is_tcp_listener(sk, TYPED) ? enqueued(sk, TYPED) : 0;
}
#endif

static inline void closing(u64 sk, u64 inode) {
  struct listener *listener = listeners.lookup(&inode);
  if (!listener) return;
  look(sk, inode, listener); /* for the last time: what waits now will never be accepted */
  listener->closed = 1;
  note(sk, inode, CLOSED, 0);
}

RAW_TRACEPOINT(set_state) {
  u64 sk = ctx->args[0];
  int from = ctx->args[1], to = ctx->args[2];
  if (from != to && (from == TCP_LISTEN || to == TCP_LISTEN)) {
    if (LOAD(u16, sk, SOCK_SK_PROTOCOL) != IPPROTO_TCP) return 0; /* the MPTCP socket above a listener */
    u64 inode = socket_inode(sk, TYPED);
    if (!inode) return 0; /* a child: it begins as its listener's copy */
    if (to == TCP_LISTEN) meet(sk, inode, 0);
    if (from == TCP_LISTEN) closing(sk, inode);
  }
#ifdef HOOK_SET_STATE
  if (from == TCP_SYN_RECV && to == TCP_ESTABLISHED && !LOAD(u64, sk, SOCK_SK_SOCKET)) { /* not TCP Fast Open */
    u64 listener = listener_of(sk);
    if (listener) return enqueued(listener, UNTYPED);
    lose(NO_LISTENER);
  }
#endif
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
  if (inode && !listeners.lookup(&inode)) meet(sk, inode, 0);
  return 0;
}

/* One that is known, whatever its namespace: how full is it now? Called by the reader. */
RAW_TRACEPOINT(refresh) {
  u64 inode = ctx->args[0];
  struct listener *listener = listeners.lookup(&inode);
  if (!listener || listener->closed) return 0;
  u64 sk = listener->sk;
  if (!is_tcp_listener(sk, UNTYPED) || socket_inode(sk, UNTYPED) != inode) {
    listener->closed = 1; /* and its memory is another socket's */
    return 0;
  }
  u64 enqueued = listener->enqueued;
  look(sk, inode, listener);
  if (!listener->quiet || listener->depth || listener->enqueued != enqueued)
    listener->quiet = note(sk, inode, 0, 0);
  if (!listener->at.port) { /* listen(2) without bind(2) finds a port after the state has changed */
    read_endpoint(sk, &listener->at);
    add_place(sk);
  }
  return 0;
}
