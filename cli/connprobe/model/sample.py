"""One reading a second."""

from typing import Literal

from connprobe.model.base import Record
from connprobe.model.kernel import KernelSample

Phase = Literal[
    "start",
    "ramp",
    "settle",
    "hold",
    "peak",
    "idle",
    "messaging",
    "drain",
    "verify",
    "check",
    "close",
    "load",
]


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


class CpuShares(Record, frozen=True):
    """Of all CPUs of the host, 0 to 1, since the sample before (source: /proc/stat)."""

    user: float
    system: float
    softirq: float  # with hard interrupts
    steal: float
    idle: float


class Sample(Record, frozen=True):
    """One reading a second, appended to samples.jsonl as it is taken. Counts are totals so far."""

    at_s: float  # since the run began
    lateness_s: float  # how much later than planned it was taken
    phase: Phase
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
