"""What one connection costs, what stops a server, and how many connections that makes."""

from typing import Literal

from msgspec import field

from connprobe.model.base import Record
from connprobe.model.kernel import Distribution, KernelFigures

Stage = Literal["start", "ramp", "peak", "idle", "messaging", "drain", "verify"]


class Interval(Record, frozen=True):
    """A mean over `count` repeats, with its 95 % interval (Student's t). One repeat has none."""

    mean: float
    low: float | None
    high: float | None
    count: int


class Reading(Record, frozen=True):
    """The server at one moment, its processes summed. `settled`: memory was flat and CPU quiet before it.

    use: what it takes of each metric, e.g. {"rss_bytes": 43515904, "fds": 4023}. Bytes end in `_bytes`,
    all else is counted: rss_bytes, pss_bytes, uss_bytes, heap_bytes (live, after a collection),
    kernel_bytes (of slabs, what the connections' sockets took), cgroup_bytes (not reclaimable, of the
    server's cgroup), memory_bytes (growth of RSS since the start, and kernel_bytes), fds (of the
    server), process_fds (of its fullest process), process_fds_grown (since the start, of the process in
    which they grew most), files (of the host), threads, host_threads, pids (that the server's cgroup
    counts, threads too), maps (of its largest process), epoll_watches, conntrack. A metric that was not
    read is not in it, and `RunRecord.unknown` says why.
    cpu_s: of the server's processes, in all. others: connections at the server's port that are not ours,
    where it ran already; None: not known.
    """

    stage: Stage
    at_s: float
    connections: int
    settled: bool
    use: dict[str, float]
    cpu_s: float | None = None
    processes: int | None = None
    others: int | None = None


class Step(Record, frozen=True):
    """A jump in an otherwise straight growth: a table doubled, an arena was mapped."""

    connections: int
    size: float


class Growth(Record, frozen=True):
    """One metric over connections, as it goes on from the last reading: base + per_connection * connections.

    low and high: 95 % interval of per_connection. base_low and base_high: of base. center: connections at
    which the line is known best; there base and per_connection err independently. residual: standard
    deviation of the readings about the line. readings: that the line was fitted on; outliers: left out, as
    they lie apart from all others.
    curvature, of a bent one: how much the cost of one connection changes from the first reading to the last,
    as a share of per_connection, the cost at the last (0.1: it was 10 % cheaper at first); None: not to be
    told from noise. steps, of a stepped one: base has them all; below a step its size is to be taken off.
    """

    metric: str
    unit: Literal["bytes", "count"]
    base: float
    base_low: float
    base_high: float
    per_connection: float
    low: float
    high: float
    residual: float
    readings: int
    first: int  # connections at the first reading, and at the last
    last: int
    center: float = 0.0
    outliers: int = 0
    curvature: float | None = None
    steps: tuple[Step, ...] = ()
    shape: Literal["flat", "straight", "bent", "stepped"] = "straight"


class Ceiling(Record, frozen=True):
    """One resource that can stop a server, before any growth is known.

    metric: which of a reading's it bounds; None: `per_connection` is known by itself (one source port, one
    descriptor of the kernel's table). used: what is taken now, at `connections` of our own.
    exact: the capacity is kept to the letter (a descriptor limit), not approached (memory, a heap).
    kept_free: of the capacity, what cannot be used.
    processes: that have as much each, and `used` is of the fullest.
    """

    resource: str
    scope: str  # whose: "server (pid 123)", "host", "cgroup /x", "client"
    capacity: float
    source: str  # the file or call it was read from
    fix: str
    metric: str | None = None
    used: float | None = None
    per_connection: float | None = None
    unit: Literal["bytes", "count", "connections"] = "count"
    exact: bool = True
    kept_free: float = 0.0
    note: str | None = None  # what a reader of the figure has to know
    processes: int = 1


class Limit(Record, frozen=True):
    """Where one resource ends: at `connections`, 95 % between `low` and `high`; None: it has no growth.

    beyond: connections over the most that were held: above 10 it is a far guess, and said so.
    approximate: the metric is not what the resource counts (RSS for a heap).
    """

    resource: str
    scope: str
    capacity: float
    per_connection: float
    connections: int
    low: int
    high: int
    fix: str
    unit: Literal["bytes", "count", "connections"] = "count"
    used: float | None = None
    base: float | None = None
    source: str = ""
    beyond: float | None = None
    approximate: bool = False
    note: str | None = None


class LeftOut(Record, frozen=True):
    """A resource with a capacity that is no `Limit`, and why.

    never: as far as is known no number of connections ends it (it does not grow, or is not limited); else it
    may end before all limits. not_before: connections that it has room for at the least; None: not known.
    """

    resource: str
    scope: str
    capacity: float
    reason: str
    not_before: int | None = None
    never: bool = False
    metric: str | None = None
    unit: Literal["bytes", "count", "connections"] = "count"
    source: str = ""


class Verified(Record, frozen=True):
    """Where it really broke. `side` client: we gave out first, and the server's limit was not reached."""

    connections: int  # alive at once, at most
    resource: str | None  # that was at its end; None: not known which
    cause: str  # in words: "the server died: SIGABRT"
    side: Literal["server", "client", "none"]
    predicted: int | None = None
    error: float | None = None  # (predicted - connections) / connections
    inside: bool | None = None  # whether it lies in the predicted interval; None: not known
    most: int | None = None  # `connections` are the least then, and these the most; None: they are exact


class Trial(Record, frozen=True):
    """One repeat, on a fresh server."""

    number: int
    readings: tuple[Reading, ...]
    growth: tuple[Growth, ...]
    limits: tuple[Limit, ...]
    held: int  # at the peak
    left_out: tuple[LeftOut, ...] = ()
    message_ms: Distribution | None = None
    messages: int = 0
    message_cpu_s: float | None = None  # of the server, while messaging
    messaging_s: float | None = None
    idle_cpu_share: float | None = None  # of one CPU, on the idle plateau
    kernel: KernelFigures | None = None
    verified: Verified | None = None
    broken: str | None = None  # what ended it early
    unsettled: tuple[Stage, ...] = ()
    others_opened: int | None = None  # connections of others that came before --verify; None: not known


class StageFigures(Record, frozen=True):
    """One row of the classic table, over all repeats."""

    stage: Stage
    connections: Interval
    use: dict[str, Interval]
    bytes_per_connection: dict[str, Interval] = field(default_factory=dict)  # over start, by metric
    cpu_share: Interval | None = None
