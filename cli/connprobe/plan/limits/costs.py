"""What one connection costs, by component: the fits of all trials, each on a fresh server, as one figure."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from connprobe.model import Growth, Interval, Trial
from connprobe.plan.limits.growth import value_at
from connprobe.plan.limits.interval import interval

ALIKE = 0.5  # of the growth while connections came: as much without them is no cost of theirs


class Cost(NamedTuple):
    """each: per connection, 95 %: of one trial by its fit, of several by the spread between them, and no less
    than the mean of what the single fits tell.

    base: at no connection, by the fitted curve; by that of one trial how well it is known is told of straight
    ones alone. last: the fit of the last trial that has this metric. shapes: how many trials had which.
    """

    metric: str
    each: Interval
    base: Interval
    last: Growth
    shapes: dict[str, int]


def costs(trials: Sequence[Trial]) -> tuple[Cost, ...]:
    """In the order in which metrics appear."""
    found: dict[str, list[Growth]] = {}
    for trial in trials:
        for growth in trial.growth:
            found.setdefault(growth.metric, []).append(growth)
    return tuple(_cost(metric, growths) for metric, growths in found.items())


def with_time(trial: Trial) -> tuple[float, float] | None:
    """(bytes a second while connections came, and while none did) of a server whose memory grows alike.

    None: it settled, or what it takes goes with its connections. Source: RSS at the start, after the last
    step of the ramp, and at the end of the idle stage.
    """
    if not {"start", "idle"} <= set(trial.unsettled):
        return None
    known = [each for each in trial.readings if "rss_bytes" in each.use]
    ends = [[each for each in known if each.stage == stage][-1:] for stage in ("start", "ramp", "idle")]
    if not all(ends):
        return None
    (start,), (ramp,), (idle,) = ends
    if not start.at_s < ramp.at_s < idle.at_s:
        return None
    coming = (ramp.use["rss_bytes"] - start.use["rss_bytes"]) / (ramp.at_s - start.at_s)
    still = (idle.use["rss_bytes"] - ramp.use["rss_bytes"]) / (idle.at_s - ramp.at_s)
    return (coming, still) if still >= ALIKE * coming > 0 else None


def _cost(metric: str, growths: Sequence[Growth]) -> Cost:
    last = growths[-1]
    own = math.fsum(growth.high - growth.low for growth in growths) / (2 * len(growths))
    own_base = math.fsum(growth.base_high - growth.base_low for growth in growths) / (2 * len(growths))
    each = interval([growth.per_connection for growth in growths], least=own)
    base = interval([value_at(growth, 0) for growth in growths], least=own_base)
    if len(growths) == 1 or each is None or base is None:
        each = Interval(mean=last.per_connection, low=last.low, high=last.high, count=1)
        base = Interval(mean=value_at(last, 0), low=None, high=None, count=1)
        if not last.steps and last.curvature is None:
            base = Interval(mean=last.base, low=last.base_low, high=last.base_high, count=1)
    return Cost(metric, each, base, last, dict(Counter(growth.shape for growth in growths)))
