/* SPDX-License-Identifier: MIT OR GPL-2.0
 *
 * Where does the processor's time go: into network softirqs, and in whose context; into the system calls of the
 * processes that are watched?
 *
 * On loopback the softirq that receives runs within the sender's system call: its time is counted as softirq, and
 * taken off the call's. Time asleep, or preempted, within a call is not counted.
 *
 * HOOK_CALLS  system calls too: sys_enter, sys_exit and sched_switch, which cost every call of the machine.
 */
enum { SLEEPERS_FULL, SWITCHES_UNSEEN };
enum { NET_TX, NET_RX, OTHER_SOFTIRQ, SOFTIRQS };
enum { TASK_DEAD = 0x80 };

/* Of one process on one CPU. */
struct usage {
  u64 calls;
  u64 call_ns;
  u64 softirq_ns[SOFTIRQS];
  u64 nested_ns; /* of NET_TX and NET_RX, within its calls */
};

/* Of one kind of softirq on one CPU. */
struct timing {
  u64 runs;
  u64 timed_runs; /* as they were when one was timed last */
  u64 softirq_ns;
  u64 second; /* when the second began that `timed` counts in */
  u32 timed;
  u32 next; /* this one of those after the last is timed */
};

/* Of one CPU. */
struct cpu {
  u64 softirq_since; /* 0: the one that runs is not timed */
  u64 call_since;    /* moved on by what is not the call's */
  u32 caller;        /* the watched process whose system call runs here, 0: none */
  u32 thread;        /* of it */
  u32 chance;
  u32 unused;
  struct timing timings[SOFTIRQS];
};

BPF_PERCPU_HASH(watched, u32, struct usage, PROCESSES); /* by tgid: the reader puts them in */
BPF_PERCPU_ARRAY(cpus, struct cpu, 1);

static inline struct cpu *this_cpu(void) {
  int zero = 0;
  return cpus.lookup(&zero);
}

static inline u32 kind_of(u32 vector) { /* include/linux/interrupt.h */
  return vector == 2 ? NET_TX : vector == 3 ? NET_RX : OTHER_SOFTIRQ;
}

/* On loopback nearly every packet is a softirq of its own. Of each kind the first ones of a second are timed, and then
 * one of so many, which stands for all since the one before. Which one is by chance, so that no pattern matters. */
#ifdef HOOK_CALLS
enum { ALL_TIMED = 0x7fffffff }; /* each has to be taken off the call it ran in */
#else
enum { ALL_TIMED = 1024 };
#endif
enum { ONE_OF = 8, SECOND_NS = 1000000000 };

static inline u32 until_next(struct cpu *cpu, struct timing *of, u64 now) {
  if (now - of->second > SECOND_NS) {
    of->second = now;
    of->timed = 0;
  }
  if (of->timed++ < ALL_TIMED) return 1;
  cpu->chance = cpu->chance * 1664525 + 1013904223;
  return 1 + (cpu->chance >> 16) % (2 * ONE_OF - 1);
}

RAW_TRACEPOINT(softirq_entry) {
  struct cpu *cpu = this_cpu();
  if (!cpu) return 0;
  struct timing *of = &cpu->timings[kind_of(ctx->args[0])];
  cpu->softirq_since = ++of->runs - of->timed_runs >= of->next ? bpf_ktime_get_ns() : 0;
  return 0;
}

RAW_TRACEPOINT(softirq_exit) {
  struct cpu *cpu = this_cpu();
  if (!cpu || !cpu->softirq_since) return 0; /* not timed, or begun before the probe was attached */
  u64 now = bpf_ktime_get_ns();
  u32 kind = kind_of(ctx->args[0]), caller = cpu->caller;
  struct timing *of = &cpu->timings[kind];
  u64 took = (now - cpu->softirq_since) * (of->runs - of->timed_runs);
  of->timed_runs = of->runs;
  of->next = until_next(cpu, of, now);
  of->softirq_ns += took;
  cpu->softirq_since = 0;
  if (caller) cpu->call_since += took;
  u32 tgid = bpf_get_current_pid_tgid() >> 32;
  struct usage *mine = tgid ? watched.lookup(&tgid) : 0;
  if (!mine) return 0;
  mine->softirq_ns[kind] += took;
  if (caller == tgid && kind != OTHER_SOFTIRQ) mine->nested_ns += took;
  return 0;
}

#ifdef HOOK_CALLS
BPF_HASH(sleepers, u32, u32, SLEEPERS); /* threads that left the CPU within a call: their process */

RAW_TRACEPOINT(sys_enter) {
  u64 id = bpf_get_current_pid_tgid();
  u32 tgid = id >> 32;
  if (!watched.lookup(&tgid)) return 0;
  struct cpu *cpu = this_cpu();
  if (!cpu) return 0;
  if (cpu->caller && cpu->thread != (u32)id) lose(SWITCHES_UNSEEN);
  cpu->call_since = bpf_ktime_get_ns();
  cpu->caller = tgid;
  cpu->thread = id;
  return 0;
}

RAW_TRACEPOINT(sys_exit) {
  u64 id = bpf_get_current_pid_tgid();
  u32 tgid = id >> 32, thread = id;
  struct usage *mine = watched.lookup(&tgid);
  struct cpu *cpu = this_cpu();
  if (!cpu) return 0;
  u32 seen = cpu->caller && cpu->thread == thread;
  if (cpu->caller && !seen) lose(SWITCHES_UNSEEN);
  cpu->caller = 0;
  if (!mine) return 0;
  mine->calls++;
  if (seen)
    mine->call_ns += bpf_ktime_get_ns() - cpu->call_since;
  else if (!sleepers.delete(&thread)) /* where it was asleep before it was watched there is none */
    lose(SWITCHES_UNSEEN);
  return 0;
}

RAW_TRACEPOINT(sched_switch) {
  struct cpu *cpu = this_cpu();
  if (!cpu) return 0;
  u64 id = bpf_get_current_pid_tgid(); /* who leaves */
  u32 tgid = id >> 32, thread = id, called = cpu->caller != 0;
  cpu->caller = 0;
  if (called && cpu->thread != thread) {
    lose(SWITCHES_UNSEEN);
  } else if (called) {
    struct usage *mine = watched.lookup(&tgid);
    if (mine) mine->call_ns += bpf_ktime_get_ns() - cpu->call_since;
    if (!(ctx->args[3] & TASK_DEAD) && sleepers.update(&thread, &tgid)) lose(SLEEPERS_FULL);
  }
  u32 next = READ(u32, ctx->args[2], TASK_STRUCT_PID);
  u32 *process = next ? sleepers.lookup(&next) : 0;
  if (!process) return 0;
  cpu->caller = *process;
  cpu->thread = next;
  sleepers.delete(&next);
  cpu->call_since = bpf_ktime_get_ns();
  return 0;
}
#endif
