"""From the readings of one trial to what a connection costs and where each resource ends."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from connprobe.model import Ceiling, Growth, LeftOut, Limit, Reading, Stage
from connprobe.plan.limits.growth import FEWEST, fit
from connprobe.plan.limits.hostcounts import OF_ALL, of_all
from connprobe.plan.limits.limits import left_out, limits
from connprobe.plan.limits.settle import BOUND_S

# The first connections make a server load and reserve what later ones share: they are no measure.
FITTED: Final[frozenset[Stage]] = frozenset({"ramp"})
# What a process maps and the allocator keeps: off by as much as memory drifted while it was read.
DRIFTS: Final = frozenset(
    {"rss_bytes", "pss_bytes", "uss_bytes", "heap_bytes", "cgroup_bytes", "memory_bytes"}
)
# Of mappings: stages that may have all connections, and how much of what came with those may move in them.
WITH_ALL: Final[frozenset[Stage]] = frozenset({"ramp", "peak", "idle"})
MOVES: Final = 0.2


class Prediction(NamedTuple):
    growth: tuple[Growth, ...]
    limits: tuple[Limit, ...]
    left_out: tuple[LeftOut, ...]


def predict(
    readings: Sequence[Reading],
    ceilings: Sequence[Ceiling],
    held: int,
    *,
    at: int,
    off_bytes: float = 0.0,
    ends: int = 1,
) -> Prediction:
    """The growth of each metric over the ramp, and the limits that it leads to, sorted.

    held: connections that there were at once. at: those there were when the ceilings were read. off_bytes:
    by how much memory may be off, as it had not settled; 0: it had. Where connections of others came or went
    between the readings, each is off by what as many take. ends: 2 where both of a connection are on
    this host.
    """
    growth = growths(readings, ends=ends)
    if off_bytes:
        off_bytes = max(off_bytes, off_bytes / BOUND_S * _ramp_s(readings) / 2)
    off = dict.fromkeys(DRIFTS, off_bytes) if off_bytes else {}
    if others := moved(readings):
        for each in growth.values():
            off[each.metric] = off.get(each.metric, 0.0) + others * max(0.0, each.per_connection)
    return Prediction(
        growth=tuple(_widened(each, off.get(each.metric, 0.0)) for each in growth.values()),
        limits=limits(ceilings, growth, held, at=at, off=off),
        left_out=left_out(ceilings, growth, held, at=at),
    )


def moved(readings: Sequence[Reading]) -> int:
    """By how many connections of others the readings differ that lines are fitted on."""
    known = [each.others for each in fitted(readings) if each.others is not None]
    return max(known) - min(known) if known else 0


def fitted(readings: Sequence[Reading]) -> list[Reading]:
    """Of the ramp, and the start too where those are too few."""
    ramp = [reading for reading in readings if reading.stage in FITTED]
    if len({reading.connections for reading in ramp}) >= FEWEST:
        return ramp
    return [reading for reading in readings if reading.stage in FITTED or reading.stage == "start"]


def growths(readings: Sequence[Reading], *, ends: int = 1) -> Mapping[str, Growth]:
    """By metric. Of the ramp's readings, and the start's too where those alone are too few."""
    metrics = sorted({metric for reading in readings for metric in reading.use} - OF_ALL)
    found: dict[str, Growth] = {}
    for metric in metrics:
        known = [reading for reading in readings if metric in reading.use]
        points = fitted(known)
        growth = fit(
            [reading.connections for reading in points],
            [reading.use[metric] for reading in points],
            metric=metric,
            unit=unit_of(metric),
        )
        if growth is not None:
            found[metric] = _unless_moving(growth, known)
    last = next((each for each in reversed(readings) if each.stage in FITTED), None)
    return found if last is None else found | of_all(found, last.use, last.connections, ends=ends)


def _unless_moving(growth: Growth, known: Sequence[Reading]) -> Growth:
    """Mappings come and go as a runtime collects: flat where they did so while no connection came."""
    if growth.metric != "maps":
        return growth
    still = [
        each.use[growth.metric]
        for each in known
        if each.stage in WITH_ALL and each.connections == growth.last and growth.last
    ]
    moved = max(still, default=0.0) - min(still, default=0.0)
    grown = growth.per_connection * (growth.last - growth.first)
    return replace(growth, shape="flat") if moved > MOVES * grown else growth


def _ramp_s(readings: Sequence[Reading]) -> float:
    """From the first reading that is fitted to the last: so long a leak adds to what connections take."""
    at_s = [each.at_s for each in readings if each.stage in FITTED]
    return max(at_s, default=0.0) - min(at_s, default=0.0)


def _widened(growth: Growth, off: float) -> Growth:
    """Of readings that are off by so much, the first one way and the last the other, as a limit takes it."""
    span = growth.last - growth.first
    if not off or not span:
        return growth
    each = 2 * off / span
    base = max(off, each * growth.center)
    return replace(
        growth,
        low=growth.low - each,
        high=growth.high + each,
        base_low=growth.base_low - base,
        base_high=growth.base_high + base,
    )


def unit_of(metric: str) -> Literal["bytes", "count"]:
    return "bytes" if metric.endswith("_bytes") else "count"
