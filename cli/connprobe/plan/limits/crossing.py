"""Where a growth reaches a capacity, between which bounds: everything that makes a prediction uncertain.

Five things do. The readings scatter, and so do base and slope (the band of the fit, crossed by the capacity:
Fieller's interval). A memory limit is approached rather than kept to the letter. What goes on beyond the
last reading may cost a little more or less than what was seen. A bend may go on or not, and so may steps.
Readings of memory that never settled are off by as much as it still drifted.
"""

import math
from typing import Final, NamedTuple

from connprobe.model import Growth, Step
from connprobe.plan.limits.growth import second_order, value_at, widths

APPROACH = 0.015  # of a capacity that is approached: V8 gave up 0.6 to 0.9 % below its old space
FAR = 10  # times what was held: beyond, a guess
DRIFT: Final = {"bytes": 0.005, "count": 0.0}  # of what is added, for each doubling of what was held
FAR_DRIFT: Final = {"bytes": 0.02, "count": 0.002}  # the same for each FAR beyond FAR
BEND_MORE = 1.5  # a bend is itself only estimated
DOUBLING = (
    1.5,
    3.0,
)  # two steps whose places, or sizes, are in such proportion belong to a table that doubles
EARLIER = 0.8  # a step lies between two readings; the next may come that much sooner
MANY_STEPS = 64


class Crossing(NamedTuple):
    connections: float
    low: float
    high: float


def crossing(
    growth: Growth, capacity: float, *, held: int, exact: bool, shift: float = 0.0, off: float = 0.0
) -> Crossing:
    """Connections at which `capacity` is reached. The slope must be above 0, and so must its interval.

    shift: to be added to all values (another base than that of the readings). off: bytes by which readings
    may be off, as memory had not settled.
    """
    straight, soonest, latest = _ways(growth, capacity - shift)
    # One step shows no pattern: the middle of both ways.
    lone = growth.shape == "stepped" and len(growth.steps) == 1
    middle = (soonest + latest) / 2 if lone else straight
    approach = 0.0 if exact else APPROACH * capacity
    sooner = _ways(growth, capacity - shift - approach)[1]
    later = _ways(growth, capacity - shift + approach)[2]
    off = off / growth.per_connection

    def others(at: float, *, cheaper: bool = False) -> tuple[float, float]:
        unseen = drift(growth, at, held) * max(0.0, at - growth.last)
        # What is counted in whole numbers, one for each connection, can become no cheaper.
        if not cheaper:
            return unseen, off * max(1.0, _lever(growth, at))
        # Of a cost of which drift may be a share r, the rest ends it 1 / (1 - r) as far.
        share = _lever(growth, growth.center + 1.0) * off
        drifted = off * max(1.0, _lever(growth, at)) / (1 - share) if share < 1 else math.inf
        return 0.0 if is_whole(growth) else unseen, drifted if off else 0.0

    low, high = _fieller(growth, soonest)[0], _fieller(growth, latest)[1]
    if min(low, sooner) > 0:
        # Dearer by a share r ends it 1 / (1 + r) as far. So more capacity never lowers `low`.
        shares = [(soonest - edge) / edge for edge in (low, sooner)]
        low = soonest / (1 + math.hypot(*shares, *(width / soonest for width in others(soonest))))
    else:
        low = 0.0
    return Crossing(
        middle, low, latest + math.hypot(high - latest, later - latest, *others(latest, cheaper=True))
    )


def _ways(growth: Growth, room: float) -> tuple[float, float, float]:
    """Where `room` is reached: as is likeliest, at the soonest and at the latest, by its shape alone."""
    straight = (room - growth.base) / growth.per_connection
    ways = [straight]
    if growth.shape == "bent":
        ways += _bent(growth, room)
    elif growth.shape == "stepped":
        ways += _stepped(growth, room)
    likely = ways[-1] if growth.shape == "stepped" else straight
    return likely, min(ways), max(ways)


def is_whole(growth: Growth) -> bool:
    """Each connection takes the same whole number, to the letter: a descriptor, two of a proxy."""
    each = growth.per_connection
    return growth.unit == "count" and growth.residual == 0 and each >= 1 and each == round(each)


def drift(growth: Growth, connections: float, held: int) -> float:
    """By what share the cost of a connection may differ beyond what was seen. It never shrinks on the way."""
    beyond = connections / max(1, held, growth.last)
    if beyond <= 1:
        return 0.0
    share = DRIFT[growth.unit] * math.log2(min(beyond, FAR))
    return share + FAR_DRIFT[growth.unit] * max(0.0, beyond / FAR - 1)


def _fieller(growth: Growth, connections: float) -> tuple[float, float]:
    """Where the edges of the prediction band have the value that the line has at `connections`."""
    about_center, slope = widths(growth)
    distance = growth.per_connection * (connections - growth.center)
    shrunk = growth.per_connection**2 - slope**2
    root = math.sqrt((slope * distance) ** 2 + shrunk * about_center)
    middle = distance * growth.per_connection
    return growth.center + (middle - root) / shrunk, growth.center + (middle + root) / shrunk


def _lever(growth: Growth, connections: float) -> float:
    """Readings off by one, the first one way and the last the other: how far the line is off there."""
    span = growth.last - growth.first
    return 2 * (connections - growth.center) / span if span else 1.0


def _bent(growth: Growth, room: float) -> list[float]:
    """The bend goes on, half as much again; or the cost goes back to its mean over the readings."""
    last, slope, curvature = growth.last, growth.per_connection, growth.curvature or 0.0
    free = room - value_at(growth, last)
    back = max(0.25, 1 - curvature / 2) * slope
    found = [last + free / back]
    second = BEND_MORE * second_order(growth)
    inside = slope**2 + 4 * second * free
    if inside >= 0 and second:
        found.append(last + 2 * free / (slope + math.sqrt(inside)))
    elif second:
        # It would level off before: then at a quarter of the cost, at the least.
        found.append(last + 4 * free / slope)
    return found


def _stepped(growth: Growth, room: float) -> list[float]:
    """The steps go on, from as early as they may; and from when they are due."""
    *before, last = growth.steps
    if before and not _doubles(before[-1], last):
        # Every so often, by so much: spread evenly over the connections between them.
        apart = (last.connections - growth.steps[0].connections) / len(before)
        size = sum(step.size for step in growth.steps) / len(growth.steps)
        slope = growth.per_connection + size / apart
        return [
            min(
                (room - growth.base) / growth.per_connection,
                (room - growth.base - size * ahead + size * last.connections / apart) / slope,
            )
            for ahead in (1, 0)
        ]
    return [_doubling(growth, room, early) for early in (EARLIER, 1.0)]


def _doubling(growth: Growth, room: float, early: float) -> float:
    """One step alone, or steps that double: a table that doubles each time its places are full."""
    base, place, size = growth.base, float(growth.steps[-1].connections), growth.steps[-1].size
    for _ in range(MANY_STEPS):
        place, size = place * 2, size * 2
        at = max(growth.last, place * early)
        reached = (room - base) / growth.per_connection
        if reached <= at:
            return reached
        base += size
        if base + growth.per_connection * at >= room:
            return at
    return (room - base) / growth.per_connection


def _doubles(one: Step, other: Step) -> bool:
    least, most = DOUBLING
    places = other.connections / max(1, one.connections)
    return least <= places <= most and least <= other.size / one.size <= most
