"""Requests down one connection that a server does not answer: what was asked for, and what came of it."""

from typing import Literal

from msgspec import field

from connprobe.model.base import Record
from connprobe.model.host import HostRecord
from connprobe.model.limits import Growth, Limit, Reading, Verified
from connprobe.model.run import RuntimeFigures, Verdict

PIPELINE_SCHEMA = "connprobe/pipeline/1"

PipelinePhase = Literal["start", "ramp", "settle", "verify", "release"]
# Why no more requests were sent.
Ended = Literal["count", "stopped_reading", "memory_bound", "answered", "lost", "died", "interrupted"]


class PipelineRequest(Record, frozen=True):
    """What `connprobe pipeline` was asked for, as typed."""

    target: str | None
    count: int
    command: tuple[str, ...] = ()
    server: str | None = None  # of the reference servers, by name
    port: int | None = None
    server_pid: int | None = None
    steps: int = 5
    rate_per_s: float | None = None
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    memory_bound_bytes: int | None = None  # None: half of what this host, or the cgroup, has left
    heap_limit_bytes: int | None = None
    release_path: str | None = None  # a GET of it makes the server answer
    verify: bool = False
    startup_s: float = 60.0
    settle_s: float = 30.0
    timeout_s: float = 30.0


class PipelineSample(Record, frozen=True):
    """One line of samples.jsonl. Counts are totals so far; bytes are those of this moment."""

    at_s: float
    phase: PipelinePhase
    sent: int
    received: int
    answered: int
    socket_bytes: int
    rss_bytes: int
    cpu_s: float


class PipelineStep(Record, frozen=True):
    """One step of the ramp, read once settled.

    sent: whole requests that the kernel took. received: of them, those whose last byte the server's process
    has read. pending: received, and not answered. socket_bytes: sent, and still in one of the two sockets.
    send_s: from the step's first request until the server had read its last, without settling; None: it
    has not.
    """

    sent: int
    received: int
    answered: int
    pending: int
    socket_bytes: int
    send_s: float | None
    settled: bool


class Answers(Record, frozen=True):
    """early: before anything was released. in_order: None: the answers do not name their requests.

    expected: requests that the server had when it was told to answer.
    """

    early: int
    expected: int | None
    released: int | None
    statuses: dict[str, int]
    bytes: int
    in_order: bool | None
    release_s: float | None


class PipelineRecord(Record, frozen=True, kw_only=True):
    """pipeline.json. In `readings`, `growth`, `limits` and `verified` a connection is one pending request.

    received_by: "read": what the server's process has read from its socket is known (sock_diag).
    "acknowledged": it is not, and what its kernel has taken counts as received.
    pending: the most at once. received_most, pending_most: the same, unless the server died or closed the
    connection: what it read after it was last looked at is not known, so `received` and `pending` are the
    least then, and None where nothing was read before. requests_per_s: over the steps, without settling.
    ended: why no more was sent; ended_by says it in words. memory_bound_bytes: of the server's RSS, at which
    sending stops. `unknown`: why figures are None.
    """

    schema: str
    connprobe: str
    command: Literal["pipeline"]
    outcome: Literal["done", "missed", "interrupted"]
    started_at: str
    target: str
    request: PipelineRequest
    requested: int
    request_bytes: int
    sent: int
    received: int | None
    received_most: int
    received_by: Literal["read", "acknowledged"]
    pending: int | None
    pending_most: int
    ended: Ended
    ended_by: str
    requests_per_s: float | None
    answers: Answers
    steps: tuple[PipelineStep, ...]
    readings: tuple[Reading, ...]
    growth: tuple[Growth, ...]
    limits: tuple[Limit, ...]
    verified: Verified | None
    memory_bound_bytes: int
    memory_bound_source: str
    memory_bound_met: Limit | None  # where RSS comes to it
    server_pids: tuple[int, ...]
    start_rss_bytes: int | None
    peak_rss_bytes: int | None
    runtime: RuntimeFigures | None
    host: HostRecord
    headline: str
    verdicts: tuple[Verdict, ...]
    unknown: dict[str, str] = field(default_factory=dict)
