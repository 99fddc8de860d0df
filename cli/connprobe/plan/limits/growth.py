"""What one connection costs of one metric: a line through settled readings, and how well it is known.

Least squares, after readings that lie apart from all others were left out, with Student's t. That the
intervals hold for few readings, with noise of any tail, is shown by simulation in
tests/plan/limits/test_growth.py.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal

from connprobe.model import Growth, Step
from connprobe.plan.limits.leastsquares import straight
from connprobe.plan.limits.shape import bend, stairs, without_outliers
from connprobe.plan.limits.student import quantile

# What a connection may cost of a metric that does not grow with them.
NEGLIGIBLE: Final = {"bytes": 1.0, "count": 1e-4}
PAGES: Final = (4096, 1 << 21)  # the least unit that memory is counted in, and the largest
FEWEST = 3
# Of the server's own processes: nobody else moves them.
OF_SERVER: Final = frozenset({"fds", "process_fds", "process_fds_grown", "threads", "maps"})
APART = 10  # connections: of fewer any rise is a whole number for each

Shape = Literal["flat", "straight", "bent", "stepped"]


def fit(
    connections: Sequence[int], values: Sequence[float], *, metric: str, unit: Literal["bytes", "count"]
) -> Growth | None:
    """The growth over these settled readings; None: too few, or all at the same number of connections.

    Two readings will do where a count of the server's own rose by a whole number for each of APART
    connections or more: no noise does that.
    """
    points = sorted((int(x), float(y)) for x, y in zip(connections, values, strict=True) if math.isfinite(y))
    if len({x for x, _ in points}) < 2:
        return None
    if len(points) < FEWEST:
        line = straight(points)
        apart = points[-1][0] - points[0][0]
        if metric not in OF_SERVER or apart < APART or line.slope < 1 or line.slope != round(line.slope):
            return None
    kept = without_outliers(points)
    line = straight(kept)
    shape: Shape = "straight"
    curvature: float | None = None
    steps: tuple[Step, ...] = ()
    floor = _quantum([y for _, y in kept]) / math.sqrt(12) if unit == "bytes" else 0.0
    stepped, bent = stairs(kept, floor=floor), bend(kept, floor=floor)
    if stepped and (bent is None or stepped.line.rss < bent.line.rss):
        shape, line, steps = "stepped", stepped.line, stepped.steps
    elif bent:
        shape, line, curvature = "bent", bent.line, bent.curvature
    residual = max(line.residual, floor)
    width = quantile(line.degrees) * residual if line.degrees else 0.0
    slope_width = width * math.sqrt(line.slope_variance)
    base_width = width * math.sqrt(line.variance_at(0))
    if (shape == "straight" and line.slope - slope_width <= 0) or line.slope < NEGLIGIBLE[unit]:
        shape = "flat"
    return Growth(
        metric=metric,
        unit=unit,
        base=line.base,
        base_low=line.base - base_width,
        base_high=line.base + base_width,
        per_connection=line.slope,
        low=line.slope - slope_width,
        high=line.slope + slope_width,
        residual=residual,
        readings=len(kept),
        first=kept[0][0],
        last=kept[-1][0],
        center=line.center,
        outliers=len(points) - len(kept),
        curvature=curvature,
        steps=steps,
        shape=shape,
    )


def value_at(growth: Growth, connections: float) -> float:
    """What is taken at that many connections, by the fitted curve; beyond the last reading, by its line."""
    value = growth.base + growth.per_connection * connections
    value -= sum(step.size for step in growth.steps if connections < step.connections)
    if growth.curvature and connections < growth.last:
        value += second_order(growth) * (connections - growth.last) ** 2
    return value


def second_order(growth: Growth) -> float:
    """The coefficient of (connections - last)^2 of a bent growth."""
    if not growth.curvature or growth.last == growth.first:
        return 0.0
    return growth.curvature * growth.per_connection / (2 * (growth.last - growth.first))


def band_at(growth: Growth, connections: float) -> tuple[float, float]:
    """Where one more reading at that many connections would lie, 95 %: for the band about a drawn line."""
    value, width = value_at(growth, connections), math.sqrt(squared_width_at(growth, connections))
    return value - width, value + width


def squared_width_at(growth: Growth, connections: float) -> float:
    """The square of half the prediction band's width: the readings' scatter, the line's and the slope's."""
    about_center, slope = widths(growth)
    return about_center + (slope * (connections - growth.center)) ** 2


def widths(growth: Growth) -> tuple[float, float]:
    """(half the width of the prediction band at the center, squared; half of the slope's interval)."""
    slope = (growth.high - growth.low) / 2
    base = (growth.base_high - growth.base_low) / 2
    center = max(0.0, base**2 - (slope * growth.center) ** 2)
    return center + (_student(growth) * growth.residual) ** 2, slope


def _student(growth: Growth) -> float:
    degrees = growth.readings - 2 - len(growth.steps) - (growth.curvature is not None)
    return quantile(degrees) if degrees > 0 else 0.0


def _quantum(values: Sequence[float]) -> float:
    """The page that all values are multiples of; 0: none. So rounded, a perfect line is less than perfect."""
    if not all(value == int(value) for value in values):
        return 0.0
    shared = math.gcd(*(int(value) for value in values))
    page = min(shared & -shared, PAGES[1])
    return float(page) if page >= PAGES[0] else 0.0
