"""When a server has come to rest, so that its memory may be read: by what is seen of it, not by a clock."""

from collections import deque
from typing import Literal, NamedTuple

from connprobe.plan.limits.leastsquares import median

WINDOW_S = 2.0  # flat and quiet for so long: settled
LONG_S = 8.0  # memory that goes up and down is looked at for so long, and so is a CPU that is never quiet
FEWEST = (
    8  # samples in a window: fewer say nothing, so that one of a server of hundreds of processes is longer
)
FLAT_BYTES = 65536  # 16 pages: an allocator's own coming and going
FLAT_SHARE = 0.001  # of the memory
QUIET_CPU = 0.05  # of one CPU
STEADY = 0.25  # a server that always works works alike in both halves of the long window
BOUND_S = 30.0


class Settled(NamedTuple):
    """drift_bytes_per_s: how fast memory still changed, over the long window; None: too few samples.

    reason: in words, what is waited for, or what settled means here.
    """

    state: Literal["waiting", "settled", "gave_up"]
    drift_bytes_per_s: float | None
    reason: str

    @property
    def off_bytes(self) -> float:
        """By how much a reading may be off: what would be added in once more the time that was waited."""
        if self.state == "settled" or self.drift_bytes_per_s is None:
            return 0.0
        return abs(self.drift_bytes_per_s) * BOUND_S


class _Sample(NamedTuple):
    at_s: float
    memory: int
    cpu_s: float


class Settling:
    """One wait. Feed it 5 to 10 times a second; a new wait (a step further in the ramp) is a new one."""

    def __init__(self, bound_s: float = BOUND_S) -> None:
        self._bound_s = bound_s
        self._samples: deque[_Sample] = deque()
        self._started_s: float | None = None

    def feed(self, now: float, rss_bytes: int, cpu_s: float) -> Settled:
        """now: any clock that does not go back. cpu_s: of all of the server's processes, in all."""
        if self._started_s is None:
            self._started_s = now
        self._samples.append(_Sample(now, rss_bytes, cpu_s))
        while len(self._samples) > 2 * FEWEST and self._samples[0].at_s < now - LONG_S - WINDOW_S / 4:
            self._samples.popleft()
        reason = self._unsettled(now)
        drift = self._drift()
        if reason is None:
            return Settled("settled", drift, "memory is flat, and the CPU quiet or steady")
        if now - self._started_s >= self._bound_s:
            return Settled("gave_up", drift, reason)
        return Settled("waiting", drift, reason)

    def _unsettled(self, now: float) -> str | None:
        short = self._since(now, WINDOW_S)
        if short is None:
            return "a window of samples is not full yet"
        quiet = _cpu_share(short) <= QUIET_CPU
        if quiet and _flat(short):
            return None
        long = self._since(now, LONG_S)
        if long is None:
            return "memory changes" if quiet else f"the CPU is busy: {_cpu_share(short):.0%} of one"
        early, late = _halves(long)
        if not (_flat(long) or _same_envelope(early, late)):
            return "memory changes"
        shares = _cpu_share(early), _cpu_share(late)
        if max(shares) > QUIET_CPU and abs(shares[0] - shares[1]) > STEADY * max(shares):
            return f"the CPU is busy: {shares[1]:.0%} of one, and not steadily"
        return None

    def _since(self, now: float, seconds: float) -> list[_Sample] | None:
        """The samples of the last `seconds`, and no fewer than FEWEST; None: they do not go back so far."""
        if self._samples[0].at_s > now - seconds:
            return None
        inside = [sample for sample in self._samples if sample.at_s >= now - seconds]
        if len(inside) < FEWEST:
            inside = list(self._samples)[-FEWEST:]
        return inside if len(inside) >= FEWEST else None

    def _drift(self) -> float | None:
        if len(self._samples) < FEWEST:
            return None
        early, late = _halves(list(self._samples))
        apart = median([each.at_s for each in late]) - median([each.at_s for each in early])
        if apart <= 0:
            return None
        return (median([each.memory for each in late]) - median([each.memory for each in early])) / apart


def _tolerance(samples: list[_Sample]) -> float:
    return max(FLAT_BYTES, FLAT_SHARE * max(each.memory for each in samples))


def _flat(samples: list[_Sample]) -> bool:
    """No trend: the thirds' medians agree, and so a single page fault or a short peak does not count."""
    third = max(1, len(samples) // 3)
    parts = (samples[:third], samples[third:-third], samples[-third:])
    middles = [median([each.memory for each in part]) for part in parts if part]
    return max(middles) - min(middles) <= _tolerance(samples)


def _same_envelope(early: list[_Sample], late: list[_Sample]) -> bool:
    """Memory that rises and is collected, over and over, between the same two marks."""
    near = _tolerance(early) + 0.1 * (max(e.memory for e in early) - min(e.memory for e in early))
    return (
        abs(max(e.memory for e in early) - max(e.memory for e in late)) <= near
        and abs(min(e.memory for e in early) - min(e.memory for e in late)) <= near
    )


def _cpu_share(samples: list[_Sample]) -> float:
    seconds = samples[-1].at_s - samples[0].at_s
    return (samples[-1].cpu_s - samples[0].cpu_s) / seconds if seconds > 0 else 0.0


def _halves(samples: list[_Sample]) -> tuple[list[_Sample], list[_Sample]]:
    return samples[: len(samples) // 2], samples[len(samples) // 2 :]
