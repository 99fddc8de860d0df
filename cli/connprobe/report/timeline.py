"""What the charts over time are drawn from: the samples of a run, read once, thinned as they come."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from connprobe.model import Sample
from connprobe.plan.limits.line import LineFit
from connprobe.report.thin import Thinned

MOST_PHASES = 100
MOST_QUEUES = 8
_SHORTEST_S = 0.2  # CPU time is counted in hundredths: over less it is noise
_GROWING = frozenset({"ramp", "settle", "hold", "peak", "idle"})


@dataclass
class Span:
    phase: str
    begin_s: float
    end_s: float


@dataclass
class Queue:
    """One listening address. fill: how full it was at most."""

    address: str
    key: str
    fill: float = 0.0
    deepest: float = 0.0
    capacity: float | None = None


@dataclass
class Timeline:
    """series of `thinned`: held failed dropped rate rss slab fall cpu softirq, and each queue's key.

    slab and fall: growth of the kernel's slabs and fall of MemAvailable since the first sample, whole host.
    cpu: CPUs the server kept busy since the sample before; softirq: as a share of all CPUs.
    """

    samples: int = 0
    unreadable: int = 0
    end_s: float = 0.0
    thinned: Thinned = field(default_factory=Thinned)
    phases: list[Span] = field(default_factory=list)
    phases_left_out: bool = False
    trials: list[float] = field(default_factory=list)  # when each but the first began
    queues: dict[str, Queue] = field(default_factory=dict)
    queues_left_out: bool = False
    memory: Thinned = field(default_factory=Thinned)  # "rss" over connections, in place of time
    fit: LineFit = field(default_factory=LineFit)

    def fullest_queues(self, most: int) -> list[Queue]:
        return sorted(self.queues.values(), key=lambda it: (-it.fill, -it.deepest, it.address))[:most]


def read_timeline(samples: Iterable[Sample | None]) -> Timeline:
    """None stands for a line of samples.jsonl that could not be read."""
    line = Timeline()
    first: Sample | None = None
    before: Sample | None = None
    offset = 0.0
    for sample in samples:
        if sample is None or not 0 <= sample.at_s < math.inf:
            line.unreadable += 1
            continue
        first = first or sample
        if before is not None and sample.at_s < before.at_s:  # the next trial: its clock begins again
            offset, first, before = line.end_s, sample, None
            line.trials.append(offset + sample.at_s)
        elif before is not None and sample.phase == "start" and before.phase != "start":
            line.trials.append(offset + sample.at_s)
        at_s = offset + sample.at_s
        line.samples += 1
        line.end_s = at_s
        _mark_phase(line, sample, at_s)
        line.thinned.add(at_s, _values(sample, first, before) | _queues(line, sample))
        # With none held there is none of the memory that comes once, with the first connections.
        if sample.held and sample.server is not None and sample.server.complete and sample.phase in _GROWING:
            line.memory.add(float(sample.held), {"rss": _finite(sample.server.rss_bytes)})
            line.fit.add(sample.held, sample.server.rss_bytes)
        before = sample
    return line


def _values(sample: Sample, first: Sample, before: Sample | None) -> dict[str, float | None]:
    kernel, server = sample.kernel, sample.server
    slab = kernel.slab_bytes if kernel else None
    slab_before = first.kernel.slab_bytes if first.kernel else None
    return {
        "held": float(sample.held),
        "failed": float(sum(sample.failures.values())),
        "dropped": float(sum(sample.drops.values())),
        "rate": _finite(sample.rate_per_s),
        "rss": float(server.rss_bytes) if server else None,
        "slab": None if slab is None or slab_before is None else float(slab - slab_before),
        "fall": float(first.memory_available_bytes - sample.memory_available_bytes),
        "cpu": _cpus(sample, before),
        "softirq": _finite(kernel.softirq) if kernel else None,
    }


def _cpus(sample: Sample, before: Sample | None) -> float | None:
    if (
        before is None
        or sample.server is None
        or before.server is None
        or sample.at_s - before.at_s < _SHORTEST_S
    ):
        return None
    if sample.server.pids != before.server.pids:  # what one of them used does not show in the sums
        return None
    return _finite(max(0.0, sample.server.cpu_s - before.server.cpu_s) / (sample.at_s - before.at_s))


def _queues(line: Timeline, sample: Sample) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for reading in sample.kernel.queues if sample.kernel else ():
        if reading.depth_max is None:
            continue
        queue = line.queues.get(reading.address)
        if queue is None:
            if len(line.queues) >= MOST_QUEUES:
                line.queues_left_out = True
                continue
            queue = line.queues[reading.address] = Queue(reading.address, f"queue {len(line.queues)}")
        queue.deepest = max(queue.deepest, reading.depth_max)
        if reading.capacity_each:
            queue.capacity = reading.capacity_each
            queue.fill = max(queue.fill, reading.depth_max / reading.capacity_each)
        values[queue.key] = float(reading.depth_max)
    return values


def _mark_phase(line: Timeline, sample: Sample, at_s: float) -> None:
    if line.phases_left_out:
        return
    if line.phases:
        line.phases[-1].end_s = at_s
    if line.phases and (sample.phase == "settle" or line.phases[-1].phase == sample.phase):
        return  # waiting until memory is flat is the end of what was done before
    if len(line.phases) < MOST_PHASES:
        line.phases.append(Span(sample.phase, at_s, at_s))
    else:
        line.phases_left_out = True


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
