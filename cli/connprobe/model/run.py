"""The result of one run."""

from typing import Literal

from msgspec import field

from connprobe.model.base import Record
from connprobe.model.host import HostRecord
from connprobe.model.kernel import Distribution, KernelFigures, ListenerFigures, NetworkFigures, ProbeUse
from connprobe.model.limits import Growth, LeftOut, Limit, StageFigures, Trial, Verified
from connprobe.model.plan import HoldPlan
from connprobe.model.request import HoldRequest, LimitRequest, LoadRequest
from connprobe.model.sample import ServerUse

SCHEMA = "connprobe/run/1"
WATCH_SCHEMA = "connprobe/watch/1"


class ClientFigures(Record, frozen=True):
    """pss_bytes: all processes of the command but the embedded server (source: /proc/PID/smaps_rollup).

    opened_by_io_uring: connections; the others took a system call for each step. worker_processes: fewer than
    workers where these are threads. None: of an older connprobe.
    """

    workers: int
    pss_bytes: int | None
    pss_bytes_per_connection: float | None
    workers_pss_bytes_per_connection: float | None
    cpu_s: float | None
    opened_by_io_uring: int | None = None
    worker_processes: int | None = None


class ServerFigures(Record, frozen=True):
    """RSS summed over the server's processes (source: /proc/PID/statm), CPU over the run.

    bytes_per_connection, pss_bytes_per_connection: growth from before the first connection to the idle
    plateau, over the connections held then; pages that processes share count once in the second.
    """

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
    pss_bytes_per_connection: float | None = None


class RuntimeFigures(Record, frozen=True):
    name: str
    heap_bytes: int
    heap_limit_bytes: int | None
    heap_bytes_per_connection: float | None


class Reconnects(Record, frozen=True):
    attempts: int
    successes: int
    given_up: int


class Pings(Record, frozen=True):
    sent: int
    answered: int


class ObserverFigures(Record, frozen=True):
    """What watching cost: CPU of this process while the run went on, its memory, its probes."""

    cpu_s: float
    pss_bytes: int | None
    probes: tuple[ProbeUse, ...] = ()
    samples: int = 0
    late_samples: int = 0  # more than half a second after their time


class Verdict(Record, frozen=True):
    """One plain sentence on what was seen."""

    level: Literal["good", "note", "warning", "bad"]
    text: str
    fix: str | None = None


class Late(Record, frozen=True):
    """Open loop: how much after its intended start a connection began, its share of `handshake_ms`."""

    mean_ms: float
    max_ms: float


class ThresholdFigures(Record, frozen=True):
    """value: what was measured, in ms, s, a second, or a count; None: nothing was, so it was missed."""

    threshold: str
    value: float | None
    met: bool


class LoadFigures(Record, frozen=True):
    """What `connprobe load` counted. requested = visited + wrong + failed + dropped + held + not_attempted.

    sent_bytes, received_bytes: TCP payload of all connections that were established and are over, with
    handshakes and TLS, without retransmissions (source: TCP_INFO).
    RunRecord.connections_per_s is `visited` over `total_s`.
    workers_cpu_s: user and system time of the workers over `total_s`, without their start (source:
    CLOCK_PROCESS_CPUTIME_ID).
    """

    visited: int  # connections that did all they had to: every echo right, and closed as the protocol has it
    messages: int  # sent
    answered: int  # as they had to be
    wrong: int  # echoes that were another; each ended its connection
    total_s: float  # from the first connection begun to the last one over
    messages_per_s: float
    sent_bytes: int | None
    received_bytes: int | None
    late: Late | None  # None: no --rate, each began when there was room
    thresholds: tuple[ThresholdFigures, ...] = ()
    workers_cpu_s: float | None = None


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
    connections_fewest: int | None = None  # on the server's side, at a reading
    connections_most: int | None = None
    limits: tuple[Limit, ...] = ()
    headline: str | None = None  # the limits in one sentence
    growth: tuple[Growth, ...] = ()  # what the limits were extrapolated from
    unknown: dict[str, str] = field(default_factory=dict)


class RunRecord(Record, frozen=True, kw_only=True):
    """`run.json`: the result of one run. Its JSON Schema is docs/run.schema.json."""

    schema: str
    connprobe: str  # version
    command: Literal["hold", "limit", "load"]
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
    handshake_ms: Distribution | None  # of an open loop (load --rate): from the intended start
    reconnects: Reconnects | None
    tls_resumed: int | None = None  # handshakes that took up an earlier session; None: none was to
    pings: Pings | None
    client: ClientFigures
    server: ServerFigures | None
    runtime: RuntimeFigures | None
    kernel: KernelFigures | None
    network: NetworkFigures | None = None
    listeners: tuple[ListenerFigures, ...]
    limits: tuple[Limit, ...]
    verified: Verified | None
    observer: ObserverFigures
    host: HostRecord
    plan: HoldPlan
    verdicts: tuple[Verdict, ...]
    headline: str | None = None  # the limits in one sentence
    left_out: tuple[LeftOut, ...] = ()  # of `limit`: what can end and is no limit, over all trials
    growth: tuple[Growth, ...] = ()  # of `hold`: what its limits were extrapolated from
    limit_request: LimitRequest | None = None
    load_request: LoadRequest | None = None
    load: LoadFigures | None = None
    message_ms: Distribution | None = None  # from a message sent to its whole answer
    stages: tuple[StageFigures, ...] = ()  # of `limit`: the classic table, over all trials
    trials: tuple[Trial, ...] = ()  # of `limit`; all figures above are of the last one
    unknown: dict[str, str] = field(default_factory=dict)
