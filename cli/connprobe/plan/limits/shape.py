"""What a row of readings looks like besides a straight line: readings apart from all others, jumps, a bend.

All tests ask how likely noise alone would show it, of as many places as were looked at, and take it for real
below 1 %. With few readings only what is plain is found: all else stays in the residual, and so in the width.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from connprobe.model import Step
from connprobe.plan.limits.leastsquares import Line, Points, extended, repeated_medians, straight
from connprobe.plan.limits.student import beyond

CHANCE = 0.01
LEAST_CURVATURE = 0.005  # of the cost of a connection: at four times what was held, an error under 1 %
LEAST_STEP = 0.01  # of the growth seen
MOST_STEPS = 3
APART = 5  # of that many readings, one may be left out


class Bend(NamedTuple):
    line: Line  # the tangent at the last reading
    curvature: float


class Stairs(NamedTuple):
    line: Line  # as it is after the last step
    steps: tuple[Step, ...]


def without_outliers(points: Points) -> list[tuple[int, float]]:
    """The readings but those that lie apart: one in five at most.

    The last one is kept, however far apart, unless another was made at as many connections: it may be the
    first of a new slope. The order in which readings are suspected comes from a line they do not move.
    """
    base, slope = repeated_medians(points)
    order = sorted(points, key=lambda point: abs(point[1] - base - slope * point[0]), reverse=True)
    for number in range(len(points) // APART, 0, -1):
        dropped = order[:number]
        kept = list(points)
        for point in dropped:
            kept.remove(point)
        xs = {x for x, _ in kept}
        if len(kept) < 4 or len(xs) < 3 or max(xs) < points[-1][0]:
            continue
        line = straight(kept)
        x, y = min(dropped, key=lambda point: abs(point[1] - line.at(point[0])))
        error = line.residual * math.sqrt(1 + line.variance_at(x))
        off = abs(y - line.at(x))
        chance = beyond(off / error, line.degrees) if error else float(not off)
        if chance < CHANCE / math.comb(len(points), number):
            return kept
    return list(points)


def bend(points: Points, *, floor: float) -> Bend | None:
    """The second-order term, where it is more than noise. floor: the least residual to believe in."""
    last = points[-1][0]
    if len(points) < 5 or len({x for x, _ in points}) < 4:
        return None
    line = extended(points, [[float(x - last) ** 2 for x, _ in points]])
    if line is None or _chance(line, floor) >= CHANCE:
        return None
    change = 2 * line.extra[0] * (last - points[0][0])
    mean = line.slope - change / 2
    if abs(change) < LEAST_CURVATURE * abs(mean) or not line.slope:
        return None
    return Bend(line, change / line.slope)


def stairs(points: Points, *, floor: float) -> Stairs | None:
    """The jumps upward, where they are more than noise: at most three, two readings or more on each side."""
    found: list[int] = []
    best: Line | None = None
    while len(found) < MOST_STEPS and len(points) - 3 - len(found) >= 3:
        tried = [
            (line, [*found, gap])
            for gap in _gaps(points, found)
            if (line := _stepped(points, [*found, gap])) is not None
        ]
        if not tried:
            break
        line, gaps = min(tried, key=lambda each: each[0].rss)
        growth = abs(points[-1][1] - points[0][1])
        small = min(line.extra) < LEAST_STEP * growth
        if small or _chance(line, floor) >= CHANCE / len(tried):
            break
        found, best = gaps, line
    if best is None:
        return None
    steps = [
        Step(connections=round((points[gap - 1][0] + points[gap][0]) / 2), size=size)
        for gap, size in zip(found, best.extra, strict=True)
    ]
    return Stairs(best, tuple(sorted(steps, key=lambda step: step.connections)))


def _gaps(points: Points, found: Sequence[int]) -> list[int]:
    """Indexes of readings that may be the first after a jump."""
    edges = sorted({0, len(points), *found})
    return [
        index
        for low, high in itertools.pairwise(edges)
        for index in range(low + 2, high - 1)
        if points[index - 1][0] < points[index][0]
    ]


def _stepped(points: Points, gaps: Sequence[int]) -> Line | None:
    # -1 before the jump, not 1 behind it: base is then that of the line as it goes on.
    return extended(points, [[-1.0 if index < gap else 0.0 for index in range(len(points))] for gap in gaps])


def _chance(line: Line, floor: float) -> float:
    error = max(line.residual, floor) * math.sqrt(line.extra_variances[-1])
    if not error:
        return float(not line.extra[-1])
    return beyond(line.extra[-1] / error, line.degrees)
