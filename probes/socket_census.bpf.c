/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Which TCP sockets are there, in which state, at which port, and what memory do their buffers hold?
 *
 * Rung: iter/tcp, which walks the sockets of one network namespace, listeners first, and writes nothing.
 * TIME_WAIT and request sockets are shorter structs: of them only struct sock_common is read. They hold no buffers.
 */
enum { GROUPS_FULL };
enum { TCP_CLOSE_WAIT = 8 };
enum { SERVER, CLIENT }; /* its port is the local one; the remote one */

static u64 (*as_tcp_sock)(u64 sk) = (void *)137; /* bpf_skc_to_tcp_sock: 0 for shorter structs */

struct cell {
  u64 sockets;
  u64 unaccepted;
  s64 forward_alloc;
  s64 wmem_queued;
  s64 rmem_alloc;
  s64 wmem_alloc;
};

BPF_HASH(groups, u64, struct cell, GROUPS);
BPF_ARRAY(rest, struct cell, 32);      /* those beyond, by state and family */
BPF_ARRAY(listening, u32, 65536);      /* by port: the last census that met a listener there */
BPF_ARRAY(census, u32, 1);             /* the number of this one */

static inline int is_listened_on(u32 port, u32 now) {
  u32 *met = listening.lookup(&port);
  return met && *met == now;
}

static inline int side_of(u64 sk, u32 local, u32 remote, u32 now) {
  if (!is_listened_on(local, now)) return CLIENT;
  if (!is_listened_on(remote, now)) return SERVER;
  /* A client's source port may be a listening port too. With both ends here, on loopback, one of the two is the
   * server: said of the lower address, as 127.0.0.1 mostly is, so that at least the numbers are right. */
  u64 pair = LOAD(u64, sk, SOCK_SKC_ADDRPAIR);
  u32 to = bpf_ntohl((u32)pair), from = bpf_ntohl(pair >> 32);
  return to >> 24 == 127 && from > to ? CLIENT : SERVER;
}

struct bpf_iter__tcp {
  void *meta;
  void *sk_common;
  u32 uid;
};
int bpf_iter__tcp(struct bpf_iter__tcp *ctx) {
  u64 sk = (u64)ctx->sk_common;
  int zero = 0;
  u32 *now = census.lookup(&zero);
  if (!sk || !now) return 0;
  u32 state = LOAD(u8, sk, SOCK_SKC_STATE) & 15, v6 = LOAD(u16, sk, SOCK_SKC_FAMILY) == AF_INET6;
  u32 ports = LOAD(u32, sk, SOCK_SKC_PORTPAIR);
  u32 remote = bpf_ntohs((u16)ports), local = ports >> 16, side = SERVER;
  if (state == TCP_LISTEN)
    listening.update(&local, now);
  else
    side = side_of(sk, local, remote, *now);
  u64 key = (side == SERVER ? local : remote) | state << 16 | (u64)v6 << 24 | (u64)side << 32;
  struct cell none = {}, *cell = groups.lookup_or_try_init(&key, &none);
  if (!cell) {
    lose(GROUPS_FULL);
    int index = state << 1 | v6;
    cell = rest.lookup(&index);
    if (!cell) return 0;
  }
  cell->sockets++;
  u64 full = as_tcp_sock(sk);
  if (!full) return 0;
  cell->forward_alloc += (s32)LOAD(u32, full, SOCK_SK_FORWARD_ALLOC);
  cell->wmem_queued += (s32)LOAD(u32, full, SOCK_SK_WMEM_QUEUED);
  cell->rmem_alloc += (s32)LOAD(u32, full, SOCK_RMEM_ALLOC);
  cell->wmem_alloc += (s32)LOAD(u32, full, SOCK_SK_WMEM_ALLOC) - 1; /* which begins at 1 */
  if (state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT) cell->unaccepted += !LOAD(u64, full, SOCK_SK_SOCKET);
  return 0;
}
