"""The kernel's own view, by eBPF programs: one C file in probes/ and one decoder here for each question.

To write a probe `x`:

probes/x.bpf.c
    Follows probes/common.bpf.h, which is put before it: READ, RAW_TRACEPOINT, SYSCALL_EXIT, bucket, tally,
    raise, lose; and with `listeners.SOCKET_FIELDS` read_endpoint, socket_inode, inode_of, is_tcp_listener.
    Kernel structs are read by offset: Field("sock", "sk_drops", 4) gives `READ(u32, sk, SOCK_SK_DROPS)`, and
    where the hook is `typed`, or an iterator, `LOAD(u32, sk, SOCK_SK_DROPS)`, which costs next to nothing.
    Rungs are told apart by the macros of `Rung.defines`. bcc's maps (BPF_HASH, BPF_PERCPU_HASH, ...)
    always have a size; its map functions do not work inside a macro. Function names are programs' names, so
    none may begin with kprobe__ or tracepoint__: bcc would attach it itself. Helpers are `static inline`.
    Probes at one typed hook become one program (kernel/join.py): each returns early where it has no part.
    Nothing is sent per event; what cannot be counted is `lose(CAUSE)`, with CAUSE of the file's own enum
    (at most 8), and per-CPU values need no atomics.

kernel/x.py
    probe(...) -> Probe      name "x"; rungs with hooks, fields and defines; sizes of maps are arguments
    a NamedTuple             for one thing read, each figure with its meaning
    a reader class           made from a `Live`; read() decodes `live.maps[name].items()`, runs
                             `live.run_iterator("tcp")` or `live.call(program, ...)`, and gives
                             `live.lost(CAUSES)`

tests/kernel/test_x.py
    load it with the fixture `load` of tests/kernel/conftest.py, which skips with the remedy, and compare with
    what real sockets did.

Use:

    with loader.load([accept_queue.probe(), ...]) as loaded:    # one run of the compiler for all
        probe = loaded["accept_queue"]                          # Live, or Unavailable(reason, fix, refused)
        probe.rung, probe.refused, probe.detached(), probe.statistics(), probe.memory_bytes
"""
