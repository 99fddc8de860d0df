/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Does the kernel run out of memory for sockets, or at all, and what does it refuse for that?
 *
 * Everything here is rare but kfree_skb, and counted for the whole machine. Rungs leave out what a kernel lacks:
 * HOOK_RECLAIM, HOOK_CGROUP, HOOK_DROPS.
 */
enum { RECLAIMS_FULL };
enum {
  SEND_OVER_LIMIT,
  RECEIVE_OVER_LIMIT,
  SEND_WITHIN_LIMIT,
  RECEIVE_WITHIN_LIMIT,
  RECEIVE_QUEUE_FULL,
  DIRECT_RECLAIMS,
  DIRECT_RECLAIM_NS,
  CGROUP_RECLAIMS,
  CGROUP_RECLAIM_NS,
  KSWAPD_WAKES,
  OOM_KILLS,
  COUNTS
};
enum { SK_MEM_SEND, SK_MEM_RECV };

BPF_PERCPU_ARRAY(counts, u64, COUNTS);

static inline void add(u32 which, u64 amount) {
  u64 *count = counts.lookup(&which);
  if (count) *count += amount;
}

RAW_TRACEPOINT(exceed) {
  u64 proto = ctx->args[1];
  s64 allocated = ctx->args[2]; /* pages, by all sockets of the protocol */
  u32 receive = ctx->args[3] == SK_MEM_RECV;
  s64 limit = READ(s64, READ(u64, proto, PROTO_SYSCTL_MEM), 16); /* the third figure of tcp_mem */
  add((allocated > limit ? SEND_OVER_LIMIT : SEND_WITHIN_LIMIT) + receive, 1);
  return 0;
}

RAW_TRACEPOINT(receive_queue_full) {
  add(RECEIVE_QUEUE_FULL, 1);
  return 0;
}

RAW_TRACEPOINT(oom_kill) {
  add(OOM_KILLS, 1);
  return 0;
}

#ifdef HOOK_DROPS
BPF_PERCPU_ARRAY(drops, u64, REASONS); /* by enum skb_drop_reason, whose numbers differ by kernel */

RAW_TRACEPOINT(drop) {
  u32 reason = ctx->args[2];
  u64 *count = drops.lookup(&reason);
  if (count) ++*count;
  return 0;
}
#endif

#ifdef HOOK_RECLAIM
BPF_HASH(reclaiming, u32, u64, RECLAIMING); /* threads: since when */

static inline int begin(void) {
  u32 thread = bpf_get_current_pid_tgid();
  u64 now = bpf_ktime_get_ns();
  if (reclaiming.update(&thread, &now)) lose(RECLAIMS_FULL);
  return 0;
}

static inline int end(u32 count, u32 time) {
  u32 thread = bpf_get_current_pid_tgid();
  u64 *since = reclaiming.lookup(&thread);
  add(count, 1);
  if (!since) return 0;
  add(time, bpf_ktime_get_ns() - *since);
  reclaiming.delete(&thread);
  return 0;
}

RAW_TRACEPOINT(direct_begin) { return begin(); }
RAW_TRACEPOINT(direct_end) { return end(DIRECT_RECLAIMS, DIRECT_RECLAIM_NS); }
RAW_TRACEPOINT(kswapd_wake) {
  add(KSWAPD_WAKES, 1);
  return 0;
}
#endif

#ifdef HOOK_CGROUP
RAW_TRACEPOINT(cgroup_begin) { return begin(); }
RAW_TRACEPOINT(cgroup_end) { return end(CGROUP_RECLAIMS, CGROUP_RECLAIM_NS); }
#endif
