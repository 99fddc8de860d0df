"""From ceilings and growths to the number of connections at which each resource ends."""

import math
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from connprobe.model import Ceiling, Growth, LeftOut, Limit
from connprobe.plan.capacity import KERNEL_BYTES_PAIR
from connprobe.plan.limits.crossing import FAR, Crossing, crossing
from connprobe.plan.limits.spread import OF_ONE_PROCESS, spread

MOST = 1 << 53  # connections: beyond, a number is no answer
UNLIMITED = 1 << 62  # a kernel's way to say so
# Counted since the start of the run, while the capacity counts from nothing.
RELATIVE = frozenset({"kernel_bytes", "memory_bytes"})
APPROXIMATE = {"heap": frozenset({"heap_bytes"})}  # the metrics that are what the resource counts
ROUNDING = 1e-6  # of a connection: of arithmetic, and no more


def limits(
    ceilings: Sequence[Ceiling],
    growths: Mapping[str, Growth],
    held: int,
    *,
    at: int | None = None,
    off: Mapping[str, float] | None = None,
) -> tuple[Limit, ...]:
    """Every ceiling that connections will meet, the first to bind first.

    growths: by metric. held: connections that the server had at once. at: connections there were when
    `Ceiling.used` was read (None: `held`). off: by metric, how far its readings may be from where they would
    have settled.
    """
    found = [each for each in _judged(ceilings, growths, held, at, off) if isinstance(each, Limit)]
    return tuple(sorted(found, key=lambda limit: (limit.connections, limit.low, limit.resource, limit.scope)))


def left_out(
    ceilings: Sequence[Ceiling], growths: Mapping[str, Growth], held: int, *, at: int | None = None
) -> tuple[LeftOut, ...]:
    """The ceilings of which `limits` has none: unlimited, no growth, not measured."""
    return tuple(each for each in _judged(ceilings, growths, held, at, None) if isinstance(each, LeftOut))


def _judged(
    ceilings: Sequence[Ceiling],
    growths: Mapping[str, Growth],
    held: int,
    at: int | None,
    off: Mapping[str, float] | None,
) -> list[Limit | LeftOut]:
    judged: list[Limit | LeftOut] = []
    for ceiling in ceilings:
        if not math.isfinite(ceiling.capacity) or ceiling.capacity >= UNLIMITED:
            judged.append(_left_out(ceiling, "unlimited", never=True))
        elif ceiling.metric is None:
            judged.append(_counted(ceiling, held, held if at is None else at))
        else:
            growth = growths.get(ceiling.metric)
            doubt = (off or {}).get(ceiling.metric, 0.0)
            own = _grown(ceiling, growth, held, held if at is None else at, doubt)
            if growth is None and ceiling.metric == "memory_bytes" and isinstance(own, LeftOut):
                own = replace(own, not_before=_room_by_rss(ceiling, growths.get("rss_bytes")))
            if ceiling.processes > 1 and ceiling.metric in OF_ONE_PROCESS:
                own = _shared(ceiling, growths, own, held, held if at is None else at)
            judged.append(own)
    return judged


def _counted(ceiling: Ceiling, held: int, at: int) -> Limit | LeftOut:
    """A connection takes what is known without measuring."""
    each = ceiling.per_connection
    if each is None or not math.isfinite(each) or each <= 0:
        return _left_out(ceiling, "not known what a connection takes of it")
    # What was in use, less what our own connections took of it, is taken by others.
    base = max(0.0, (ceiling.used or 0.0) - each * at)
    reached = (ceiling.capacity - base) / each
    return _limit(ceiling, each, base, Crossing(reached, reached, reached), held, ())


def _grown(ceiling: Ceiling, growth: Growth | None, held: int, at: int, off: float) -> Limit | LeftOut:
    if growth is None:
        return _left_out(ceiling, f"not measured, or too seldom ({ceiling.metric})")
    shift = 0.0
    if growth.metric in RELATIVE and ceiling.used is not None:
        shift = ceiling.used - (growth.base + growth.per_connection * at)
    base = growth.base + shift
    if growth.shape == "flat" or growth.low <= 0:
        return _flat(ceiling, growth, base)
    usable = ceiling.capacity - ceiling.kept_free
    reached = crossing(growth, usable, held=held, exact=ceiling.exact, shift=shift, off=off)
    notes = []
    if growth.shape == "bent":
        way = "dearer" if (growth.curvature or 0) > 0 else "cheaper"
        notes.append(f"the cost of a connection bends: {abs(growth.curvature or 0):.0%} {way} at the last")
    if growth.shape == "stepped":
        steps = ", ".join(f"{step.connections:,}" for step in growth.steps)
        notes.append(f"it grows in steps (at about {steps}): the next may come before the limit, or not")
    if off:
        what = (
            "memory still moved when it was"
            if growth.unit == "bytes"
            else "others' connections moved while it was"
        )
        notes.append(f"{what} read: the interval is wider for it")
    return _limit(ceiling, growth.per_connection, base, reached, held, notes)


def _shared(
    ceiling: Ceiling, growths: Mapping[str, Growth], own: Limit | LeftOut, held: int, at: int
) -> Limit | LeftOut:
    """Of several processes the fullest ends first: `own` by its line, within what is possible at all."""
    bounds = spread(ceiling, growths.get("fds"), growths.get(ceiling.metric or ""), at)
    if bounds is None:
        return own
    if isinstance(own, Limit):
        # All of one process so far: the others may take their part later.
        high = min(own.high, bounds.high) if own.high > own.connections else bounds.high
        low = max(own.low, bounds.low)
        number = min(max(own.connections, low), high)
        low, number, high = (max(held, math.floor(each)) for each in (low, number, high))
        return replace(own, connections=number, low=low, high=high)
    each = (ceiling.capacity - (ceiling.used or 0.0)) / max(1.0, bounds.connections - at)
    note = (
        f"connections come unevenly to the {ceiling.processes} processes: the interval is from all on the "
        "fullest to all alike"
    )
    return _limit(ceiling, each, ceiling.capacity - each * bounds.connections, bounds, held, [note])


def _room_by_rss(ceiling: Ceiling, rss: Growth | None) -> int | None:
    """Where the slabs could not be told from others': by RSS at its most, and twice what sockets take."""
    if rss is None:
        return None
    return int(ceiling.capacity / (max(0.0, rss.high) + 2 * KERNEL_BYTES_PAIR))


def _flat(ceiling: Ceiling, growth: Growth, base: float) -> LeftOut:
    """No limit, but how soon it could come at the worst is known all the same."""
    if growth.high <= 0:
        return _left_out(ceiling, "does not grow", never=True)
    room = max(0.0, (ceiling.capacity - ceiling.kept_free - base) / growth.high)
    if (growth.unit == "bytes" and growth.high < 1) or room >= MOST:
        return _left_out(ceiling, "does not grow", never=True)
    unit = " B" if growth.unit == "bytes" else ""
    most = f"{growth.high:.2g}" if growth.high < 100 else f"{growth.high:,.0f}"
    return _left_out(ceiling, f"does not grow measurably: {most}{unit} a connection at most", int(room))


def _left_out(
    ceiling: Ceiling, reason: str, not_before: int | None = None, *, never: bool = False
) -> LeftOut:
    return LeftOut(
        resource=ceiling.resource,
        scope=ceiling.scope,
        capacity=ceiling.capacity,
        reason=reason,
        not_before=not_before,
        never=never,
        metric=ceiling.metric,
        unit=ceiling.unit,
        source=ceiling.source,
    )


def _limit(
    ceiling: Ceiling, each: float, base: float, reached: Crossing, held: int, notes: Sequence[str]
) -> Limit | LeftOut:
    if reached.connections >= MOST:
        return _left_out(ceiling, "beyond any number of connections", never=True)
    said = [*([ceiling.note] if ceiling.note else []), *notes]
    # So many were held: no limit lies below.
    least = max(0, held)
    number, low, high = (max(least, _floor(each)) for each in reached)
    if reached.connections < least:
        said.append("at its end already, by this arithmetic: so many were held all the same")
    beyond = number / held if held > 0 else None
    if beyond is not None and beyond > FAR and low != high:
        said.append(f"{beyond:,.0f} times what was held: a guess")
    metrics = APPROXIMATE.get(ceiling.resource)
    return Limit(
        resource=ceiling.resource,
        scope=ceiling.scope,
        capacity=ceiling.capacity,
        per_connection=each,
        connections=number,
        low=min(low, number),
        high=min(MOST, max(high, number)),
        fix=ceiling.fix,
        unit=ceiling.unit,
        used=ceiling.used,
        base=base,
        source=ceiling.source,
        beyond=beyond,
        approximate=metrics is not None and ceiling.metric not in metrics,
        note="; ".join(said) or None,
    )


def _floor(connections: float) -> int:
    if not math.isfinite(connections):
        return MOST
    return math.floor(connections + max(ROUNDING, abs(connections) * 1e-12))
