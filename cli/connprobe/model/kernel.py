"""What the kernel says of the connections: queues, memory, CPU."""

from typing import Literal

from msgspec import field

from connprobe.model.base import Record


class Distribution(Record, frozen=True):
    """Milliseconds. Percentiles come from a log-linear histogram whose buckets are at most 1.6 % wide."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float
    p999: float | None = None  # None: not taken from this histogram


class QueueSample(Record, frozen=True):
    """One listening address in one interval; an SO_REUSEPORT group is `sockets` queues, summed.

    depth: connections that wait to be accepted now. depth_max: of the fullest socket of the group, in the
    interval (by eBPF) or now (by sock_diag); capacity_each: that of one socket. enqueued, accepted, overflows
    and the wait are totals since the watching began. overflows are sk_drops here, which may count one twice;
    at the end they are held against ListenOverflows. wait_..._least_ms: where the wait is inferred, at least
    so long, and the other is at most; None: it is exact.
    """

    address: str
    sockets: int
    depth: int | None
    depth_max: int | None
    capacity_each: int | None
    overflows: int | None
    enqueued: int | None = None
    accepted: int | None = None
    wait_p50_ms: float | None = None
    wait_p99_ms: float | None = None
    wait_p50_least_ms: float | None = None
    wait_p99_least_ms: float | None = None


class SynQueueFigures(Record, frozen=True):
    """Half-open connections of one listening address, its sockets summed, since the watching began.

    backlog: of one socket. syncookies: net.ipv4.tcp_syncookies of its namespace. flooded: one was full.
    drops: growth of sk_drops, for want of room here or in the accept queue, or of memory.
    """

    address: str
    depth_max: int  # of the fullest socket, seen
    backlog: int
    syncookies: int
    flooded: bool
    synack_retransmits: int
    drops: int


class LifecycleFigures(Record, frozen=True):
    """Connections of one port in one role, since the watching began.

    role server: the port is the local one; client: the remote one. established: now, where a census told how
    many there were before. closed: no more open, but for TIME_WAIT. failed: handshakes that did not end well.
    """

    role: Literal["server", "client"]
    port: int
    opened: int
    closed: int
    established: int | None
    failed: int
    resets_sent: int
    resets_received: int
    reset_reasons: dict[str, int] | None  # of those sent; None: this kernel tells none
    retransmits: int


class KernelCpu(Record, frozen=True):
    """CPU seconds of processes in the kernel. calls and call_s: system calls, without sleep and softirqs.

    softirq_s: network softirqs that ran in their context; nested_s: the part of it within system calls.
    None: system calls are not traced.
    """

    calls: int | None
    call_s: float | None
    softirq_s: float
    nested_s: float | None


class NetCpuFigures(Record, frozen=True):
    """Network softirqs of the whole machine, and whose context they ran in; from the ramp's begin on."""

    net_rx_s: float
    net_tx_s: float
    target: KernelCpu | None
    client: KernelCpu | None


class PressureFigures(Record, frozen=True):
    """Want of memory on the whole machine. refused: buffers that a socket did not get. None: not told."""

    refused_send: int
    refused_receive: int
    oom_kills: int
    direct_reclaims: int | None
    direct_reclaim_s: float | None
    cgroup_reclaims: int | None
    cgroup_reclaim_s: float | None
    drops: dict[str, int] | None  # packets, by the kernel's drop reason


class CensusGroup(Record, frozen=True):
    """Sockets of this network namespace that have this in common; bytes are sums of their buffers."""

    side: Literal["server", "client"] | None
    port: int | None
    state: str
    sockets: int
    unaccepted: int
    receive_bytes: int
    send_bytes: int
    forward_alloc_bytes: int


class CensusFigures(Record, frozen=True):
    """Every TCP socket, counted by the kernel on the plateau."""

    duration_s: float
    sockets: int
    groups: tuple[CensusGroup, ...]  # of the watched ports


class NetworkFigures(Record, frozen=True):
    """What became of the connections in the kernel. None: see `observer.probes` for the reason."""

    syn_queues: tuple[SynQueueFigures, ...] | None
    lifecycle: tuple[LifecycleFigures, ...] | None
    cpu: NetCpuFigures | None
    pressure: PressureFigures | None
    census: CensusFigures | None


class KernelSample(Record, frozen=True):
    """What the kernel says in one interval. None: not read, see the record's `unknown`.

    slab_bytes: Slab of /proc/meminfo, of the whole host. softirq: share of all CPU time since it was told
    last (/proc/stat); None: less than 0.2 s before. counters: TCP's, of this network namespace, since the
    watching began, without zeros.
    """

    queues: tuple[QueueSample, ...] = ()
    slab_bytes: int | None = None
    softirq: float | None = None
    established: int | None = None  # on the server's side of the watched ports, by eBPF
    half_open: int | None = None
    counters: dict[str, int] = field(default_factory=dict)


class KernelFigures(Record, frozen=True):
    """Kernel memory that came with `connections`; `ends` of each are on this host.

    slabs: bytes a connection, with each object's share of its slab's pages; merged caches joined with "+".
    other_slabs_bytes: what grew (or shrank) besides, for the whole machine; other_growth_bytes is all of it.
    beside_bytes: growth outside the slabs, for whatever reason; never part of bytes_per_connection.
    unexplained_bytes: that part of MemAvailable's fall which no counter of the kernel explains.
    """

    bytes_per_connection: float
    slabs: dict[str, float]
    objects_per_connection: dict[str, float] = field(default_factory=dict)
    connections: int | None = None
    ends: Literal[1, 2] | None = None
    source: str = ""
    complete: bool = False
    reason: str | None = None  # why it is not complete
    fix: str | None = None
    other_slabs_bytes: dict[str, int] = field(default_factory=dict)
    other_growth_bytes: int | None = None
    beside_bytes: dict[str, int] = field(default_factory=dict)
    unexplained_bytes: int | None = None


class ListenSocketFigures(Record, frozen=True):
    """One socket in LISTEN, by its inode. `gone`: it was closed; the figures are the last that were seen."""

    inode: int
    depth: int | None
    depth_max: int | None
    capacity: int | None
    overflows: int | None
    gone: bool = False


class ListenerFigures(Record, frozen=True):
    """One listening address: a socket, or an SO_REUSEPORT group summed, whose `sockets` are told apart.

    depth_max: most connections seen waiting to be accepted. capacity: how many may wait, backlog + 1.
    wait_ms: exact, by each accept, where wait_least_ms is None. Else the accepts were not seen, and it
    comes from the queue's first-in-first-out order: each waited at most wait_ms, at least wait_least_ms.
    """

    address: str
    depth_max: int | None
    capacity: int | None
    overflows: int | None
    wait_ms: Distribution | None
    source: str
    complete: bool = False
    reason: str | None = None  # why it is not complete
    depth: int | None = None  # now
    capacity_from: str | None = None  # what bounds it
    sockets: tuple[ListenSocketFigures, ...] = ()
    wait_least_ms: Distribution | None = None


class ProbeUse(Record, frozen=True):
    """One question to the kernel, and what answered it.

    source: the rung that served, None: none did. reason: why none did, or why not a better one. fix: what
    helps. programs: whether they were compiled now or kept from an earlier run, and by which bcc; None: none
    serve. kernel_memory_bytes: of its maps and programs. lost: what it could not count, by cause.
    """

    name: str
    source: str | None
    reason: str | None = None
    fix: str | None = None
    programs: str | None = None
    kernel_memory_bytes: int | None = None
    lost: dict[str, int] = field(default_factory=dict)
