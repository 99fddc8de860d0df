"""One prediction out of those of several repeats, each made on a fresh server."""

import math
import re
from collections.abc import Sequence

from msgspec.structs import replace

from connprobe.model import Limit
from connprobe.plan.interval import deviation
from connprobe.plan.student import quantile

_PID = re.compile(r"\bpid \d+|/proc/\d+/")


def combine(trials: Sequence[Sequence[Limit]]) -> tuple[Limit, ...]:
    """The limits over all trials, sorted: the mean, and where the next fresh server would end, 95 %.

    The single intervals are averaged, not divided by the root of their number: what they hold besides noise
    (a limit that is approached, a cost that may change) is the same in all. Where the trials lie further
    apart than that explains, the rest is a spread between servers and is added. All but the figures is that
    of the last trial.
    """
    found: dict[tuple[str, str, str], list[Limit]] = {}
    for trial in trials:
        for limit in trial:
            # A fresh server has another pid.
            key = (limit.resource, _PID.sub("", limit.scope), _PID.sub("", limit.source))
            found.setdefault(key, []).append(limit)
    pooled = (_pooled(same, len(trials)) for same in found.values())
    return tuple(sorted(pooled, key=lambda limit: (limit.connections, limit.low, limit.resource)))


def _pooled(limits: Sequence[Limit], trials: int) -> Limit:
    number = len(limits)
    if number == 1 and trials == 1:
        return limits[0]
    mean = _mean([limit.connections for limit in limits])
    below = _mean([limit.connections - limit.low for limit in limits])
    above = _mean([limit.high - limit.connections for limit in limits])
    spread = 0.0
    if number > 1:
        # An interval's half is about two standard deviations.
        within = ((below + above) / 4) ** 2
        between = max(0.0, deviation([limit.connections for limit in limits]) ** 2 - within)
        spread = quantile(number - 1) * math.sqrt(between * (1 + 1 / number))
    last = limits[-1]
    seen = f"in {number} of {trials} repeats" if number < trials else None
    factors = [limit.beyond for limit in limits if limit.beyond is not None]
    connections = round(mean)
    return replace(
        last,
        capacity=_mean([limit.capacity for limit in limits]),
        per_connection=_mean([limit.per_connection for limit in limits]),
        base=None if last.base is None else _mean([limit.base or 0.0 for limit in limits]),
        connections=connections,
        low=max(0, min(connections, math.floor(mean - math.hypot(below, spread)))),
        high=max(connections, math.ceil(mean + math.hypot(above, spread))),
        beyond=_mean(factors) if factors else None,
        note="; ".join(each for each in (last.note, seen) if each) or None,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
