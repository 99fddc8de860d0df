"""Every record of connprobe, one per concept: requests, facts, plans, samples, the result of a run.

Units are in the names (`_bytes`, `_s`, `_ms`, `_per_s`). A figure that was not measured is None and
its reason stands in `RunRecord.unknown` under its path, e.g. `{"runtime": "no inspector"}`.
"""

from typing import Literal

from msgspec import Struct, field

SCHEMA = "connprobe/run/1"
WATCH_SCHEMA = "connprobe/watch/1"

Protocol = Literal["tcp", "http", "ws"]
HttpMode = Literal["keepalive", "stream", "longpoll"]
ServeMode = Literal["idle", "echo", "stream"]
Family = Literal["ipv4", "ipv6"]
Side = Literal["client", "server", "network"]


class Record(Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, keyword-only."""


class Target(Record, frozen=True):
    """Where connections go: the name as typed, and the address it resolved to."""

    host: str
    address: str
    port: int
    family: Family
    scope_id: int = 0

    @property
    def label(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TlsRequest(Record, frozen=True):
    """How to speak TLS: trust (`ca` file or the system's), or none at all (`insecure`), and the SNI name."""

    ca: str | None = None
    insecure: bool = False
    server_name: str | None = None


class HoldRequest(Record, frozen=True):
    """What `connprobe hold` was asked for, as typed."""

    target: str | None  # None: the embedded server
    count: int
    protocol: Protocol = "ws"
    http_mode: HttpMode = "keepalive"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    tls: TlsRequest | None = None
    rate_per_s: float | None = None
    concurrency: int = 1000
    hold_s: float = 60.0
    timeout_s: float = 30.0
    ping_s: float | None = None
    workers: int | None = None  # None: as many as the file descriptor limit asks for
    sources: tuple[str, ...] | None = None  # None: chosen by the plan
    source_ports: tuple[int, int] | None = None  # None: net.ipv4.ip_local_port_range
    alias_interface: str | None = None
    alias_addresses: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()  # profiles, or "auto": what the plan needs
    reconnect: bool = False
    reconnect_attempts: int = 10
    fail_under: int | None = None
    server_pid: int | None = None
    bpf: bool = True  # watch the kernel through eBPF


class InterfaceAddress(Record, frozen=True):
    """One address of this host."""

    interface: str
    address: str
    prefix: int
    family: Family


class HostFacts(Record, frozen=True):
    """What this host allows, each read from the file or call that its name says. None: not there."""

    kernel: str
    cpus: int
    uid: int
    capabilities: tuple[str, ...]  # effective, e.g. CAP_NET_ADMIN
    memory_total_bytes: int
    memory_available_bytes: int
    cgroup_memory_max_bytes: int | None
    cgroup_memory_current_bytes: int | None
    nofile_soft: int
    nofile_hard: int
    nr_open: int
    file_max: int
    files_in_use: int
    port_low: int
    port_high: int
    reserved_ports: int  # how many of ip_local_reserved_ports lie inside the range
    epoll_watches: int | None
    conntrack_max: int | None  # None: no connection tracking
    conntrack_count: int | None
    somaxconn: int
    process_limit: int | None  # RLIMIT_NPROC of this user, None: unlimited (or root)
    processes_in_use: int
    pid_max: int
    cgroup_pids_max: int | None
    cgroup_pids_current: int | None
    addresses: tuple[InterfaceAddress, ...]


class Obstacle(Record, frozen=True):
    """Why a run is refused before anything was touched."""

    what: str
    have: str
    need: str
    fix: str


class Capacity(Record, frozen=True):
    """How many connections one resource of this host allows, and what lifts it."""

    resource: str
    source: str  # the file or call the figure comes from
    capacity: int
    used: int
    per_connection: float
    connections: int
    fix: str


class SysctlChange(Record, frozen=True):
    """One sysctl, by its path below /proc/sys, from one value to another."""

    key: str
    before: str
    after: str
    optional: bool = False  # "-" in the profile: a refusal by the kernel is no failure


class KeyCheck(Record, frozen=True):
    """One key of `sysctl check --json`. now None: missing on this kernel, or not readable."""

    key: str
    now: str | None
    wanted: str
    effect: str  # raises, lowers, raises and lowers, same, differs, missing, not readable
    ok: bool
    meaning: str | None


class CheckResult(Record, frozen=True):
    """What `sysctl check --json` prints."""

    profile: str
    source: str
    exact: bool
    ok: bool
    keys: tuple[KeyCheck, ...]


class SourceShare(Record, frozen=True):
    """`count` connections from one source address. address "": the kernel chooses.

    first_port: where to begin among `ports` (first, last, step), which are bound one by one; 0: the
    kernel chooses each.
    """

    address: str
    count: int
    first_port: int = 0
    ports: tuple[int, int, int] | None = None


class Shard(Record, frozen=True):
    """What one worker opens."""

    index: int
    count: int
    sources: tuple[SourceShare, ...]


class HoldPlan(Record, frozen=True):
    """How a request is carried out: what `--dry-run` prints."""

    target: Target | None  # None: the embedded server, whose port is not known yet
    count: int
    nofile: int  # per process, after the soft limit was raised
    workers: int
    server_processes: int  # of the embedded server; 0: a target was named
    source_addresses: int
    ports_per_source: int
    source_ports: tuple[int, int] | None  # bound one by one; None: the kernel chooses from its range
    memory_bytes: int  # expected: kernel and user space of both ends, as far as they are on this host
    alias_interface: str | None
    alias_addresses: tuple[str, ...]  # those that have to be added
    shards: tuple[Shard, ...]
    notes: tuple[str, ...] = ()
    sysctls: tuple[SysctlChange, ...] = ()  # written for the run, and put back at its end


class Distribution(Record, frozen=True):
    """Milliseconds. Percentiles come from a log-linear histogram whose buckets are at most 1.6 % wide."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class ProcessUse(Record, frozen=True):
    """One process at one moment (source: /proc/PID). None: not readable, or too dear to read now."""

    pid: int
    name: str
    rss_bytes: int
    pss_bytes: int | None
    uss_bytes: int | None
    cpu_s: float
    fds: int | None
    threads: int


class ServerUse(Record, frozen=True):
    """The processes behind the listener, summed. `complete` is False where one could not be read."""

    pids: tuple[int, ...]
    rss_bytes: int
    pss_bytes: int | None
    cpu_s: float
    fds: int | None
    threads: int
    complete: bool


class QueueSample(Record, frozen=True):
    """One listening address in one interval; an SO_REUSEPORT group is `sockets` queues, summed.

    depth: connections that wait to be accepted now. depth_max: of the fullest socket of the group, in the
    interval (by eBPF) or now (by sock_diag); capacity_each: that of one socket. enqueued, accepted, overflows
    and the wait are totals since the watching began. overflows are sk_drops here, which may count one twice;
    at the end they are held against ListenOverflows.
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

    slab_bytes: Slab of /proc/meminfo, of the whole host. softirq: share of all CPU time since the sample
    before (/proc/stat). counters: TCP's, of this network namespace, since the watching began, without zeros.
    """

    queues: tuple[QueueSample, ...] = ()
    slab_bytes: int | None = None
    softirq: float | None = None
    established: int | None = None  # on the server's side of the watched ports, by eBPF
    half_open: int | None = None
    counters: dict[str, int] = {}


class Sample(Record, frozen=True):
    """One reading a second, appended to samples.jsonl as it is taken. Counts are totals so far."""

    at_s: float  # since the run began
    lateness_s: float  # how much later than planned it was taken
    phase: Literal["ramp", "hold", "check", "close"]
    started: int
    established: int
    held: int
    in_flight: int
    failures: dict[str, int]
    drops: dict[str, int]
    rate_per_s: float  # connections established since the sample before
    handshake_p50_ms: float | None
    handshake_p99_ms: float | None
    memory_available_bytes: int
    server: ServerUse | None = None
    kernel: KernelSample | None = None


class CpuShares(Record, frozen=True):
    """Of all CPUs of the host, 0 to 1, since the sample before (source: /proc/stat)."""

    user: float
    system: float
    softirq: float  # with hard interrupts
    steal: float
    idle: float


class WatchSample(Record, frozen=True):
    """One reading of `watch`, a line of its --json. Counts are totals since the watching began.

    observer_cpu_s and observer_pss_bytes: what watching takes itself.
    """

    at_s: float
    lateness_s: float
    kernel: KernelSample
    cpu: CpuShares | None
    memory_available_bytes: int
    server: ServerUse | None
    observer_cpu_s: float
    observer_pss_bytes: int | None


class ClientFigures(Record, frozen=True):
    """pss_bytes: all processes of the command but the embedded server (source: /proc/PID/smaps_rollup)."""

    workers: int
    pss_bytes: int | None
    pss_bytes_per_connection: float | None
    workers_pss_bytes_per_connection: float | None
    cpu_s: float | None


class ServerFigures(Record, frozen=True):
    """RSS summed over the server's processes (source: /proc/PID/statm), CPU over the run."""

    pids: tuple[int, ...]
    start_rss_bytes: int
    peak_rss_bytes: int
    idle_rss_bytes: int | None
    messaging_rss_bytes: int | None
    cpu_s: float
    bytes_per_connection: float | None
    threads: int
    fds: int | None
    complete: bool


class RuntimeFigures(Record, frozen=True):
    name: str
    heap_bytes: int
    heap_limit_bytes: int | None
    heap_bytes_per_connection: float | None


class KernelFigures(Record, frozen=True):
    """Kernel memory that came with `connections`; `ends` of each are on this host.

    slabs: bytes a connection, with each object's share of its slab's pages; merged caches joined with "+".
    other_slabs_bytes: what grew (or shrank) besides, for the whole machine; other_growth_bytes is all of it.
    beside_bytes: growth outside the slabs, for whatever reason; never part of bytes_per_connection.
    unexplained_bytes: that part of MemAvailable's fall which no counter of the kernel explains.
    """

    bytes_per_connection: float
    slabs: dict[str, float]
    objects_per_connection: dict[str, float] = {}
    connections: int | None = None
    ends: Literal[1, 2] | None = None
    source: str = ""
    complete: bool = False
    reason: str | None = None  # why it is not complete
    fix: str | None = None
    other_slabs_bytes: dict[str, int] = {}
    other_growth_bytes: int | None = None
    beside_bytes: dict[str, int] = {}
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


class Limit(Record, frozen=True):
    resource: str
    scope: str
    capacity: float
    per_connection: float
    connections: int
    low: int
    high: int
    fix: str


class Reconnects(Record, frozen=True):
    attempts: int
    successes: int
    given_up: int


class Pings(Record, frozen=True):
    sent: int
    answered: int


class ProbeUse(Record, frozen=True):
    """One question to the kernel, and what answered it.

    source: the rung that served, None: none did. reason: why none did, or why not a better one. fix: what
    helps. kernel_memory_bytes: of its maps and programs. lost: what it could not count, by cause.
    """

    name: str
    source: str | None
    reason: str | None = None
    fix: str | None = None
    kernel_memory_bytes: int | None = None
    lost: dict[str, int] = {}


class ObserverFigures(Record, frozen=True):
    """What watching cost: CPU of this process while the run went on, its memory, its probes."""

    cpu_s: float
    pss_bytes: int | None
    probes: tuple[ProbeUse, ...] = ()
    samples: int = 0
    late_samples: int = 0  # more than half a second after their time


class HostRecord(Record, frozen=True):
    kernel: str
    cpus: int
    memory_total_bytes: int
    nofile: int
    python: str


class Verdict(Record, frozen=True):
    """One plain sentence on what was seen."""

    level: Literal["good", "note", "warning", "bad"]
    text: str
    fix: str | None = None


class WatchRecord(Record, frozen=True, kw_only=True):
    """watch.json: what was seen on the whole. `unknown`: figures that are None, and why."""

    schema: str
    connprobe: str
    command: Literal["watch"]
    started_at: str
    watched: str
    watched_s: float
    listeners: tuple[ListenerFigures, ...]
    network: NetworkFigures | None = None
    counters: dict[str, int | None]  # TCP's, of the network namespace; None: this kernel lacks it
    server: ServerUse | None
    observer: ObserverFigures
    verdicts: tuple[Verdict, ...]
    unknown: dict[str, str]


class RunRecord(Record, frozen=True, kw_only=True):
    """`run.json`: the result of one run. Its JSON Schema is docs/run.schema.json."""

    schema: str
    connprobe: str  # version
    command: Literal["hold"]
    outcome: Literal["done", "missed", "interrupted", "failed"]
    started_at: str  # ISO 8601, UTC
    target: str
    request: HoldRequest
    requested: int
    held: int
    failed: int
    failures: dict[str, int]
    dropped: int
    drops: dict[str, int]
    not_attempted: int
    failure_details: dict[str, dict[str, int]]  # per cause: what exactly was seen, counted
    drop_details: dict[str, dict[str, int]]
    ramp_s: float
    hold_s: float
    connections_per_s: float
    handshake_ms: Distribution | None
    reconnects: Reconnects | None
    pings: Pings | None
    client: ClientFigures
    server: ServerFigures | None
    runtime: RuntimeFigures | None
    kernel: KernelFigures | None
    network: NetworkFigures | None = None
    listeners: tuple[ListenerFigures, ...]
    limits: tuple[Limit, ...]
    verified: None
    observer: ObserverFigures
    host: HostRecord
    plan: HoldPlan
    verdicts: tuple[Verdict, ...]
    unknown: dict[str, str] = field(default_factory=dict)
