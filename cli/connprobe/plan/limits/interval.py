"""A mean over repeats and how far it can be trusted."""

import math
from collections.abc import Sequence

from connprobe.model import Interval
from connprobe.plan.limits.student import quantile


def interval(values: Sequence[float], *, least: float = 0.0) -> Interval | None:
    """The mean with its 95 % interval, by Student's t; of one value there is no interval. None: no value.

    least: half of what the interval is at the least. That all were rounded to the same page or tick does not
    make them known any better.
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return Interval(mean=mean, low=None, high=None, count=1)
    width = max(least, quantile(len(known) - 1) * deviation(known) / math.sqrt(len(known)))
    return Interval(mean=mean, low=mean - width, high=mean + width, count=len(known))


def deviation(values: Sequence[float]) -> float:
    """The standard deviation that two values or more let expect of others (n - 1)."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
