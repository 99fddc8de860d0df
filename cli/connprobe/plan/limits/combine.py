"""One prediction out of those of several repeats, each made on a fresh server."""

import math
import re
from collections.abc import Sequence

from msgspec.structs import replace

from connprobe.model import LeftOut, Limit
from connprobe.plan.limits.interval import deviation
from connprobe.plan.limits.student import quantile

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
            found.setdefault(_key(limit), []).append(limit)
    pooled = (_pooled(same, len(trials)) for same in found.values())
    return tuple(sorted(pooled, key=lambda limit: (limit.connections, limit.low, limit.resource)))


def combine_left_out(trials: Sequence[Sequence[LeftOut]], limits: Sequence[Limit]) -> tuple[LeftOut, ...]:
    """What no trial has a limit for: as the last one says, with the least room that a trial knows of.

    limits: of all trials. First what may end soonest, and last what never does.
    """
    known = {_key(limit) for limit in limits}
    found: dict[tuple[str, str, str], list[LeftOut]] = {}
    for trial in trials:
        for each in trial:
            found.setdefault(_key(each), []).append(each)
    pooled = []
    for key, same in found.items():
        if key not in known:
            doubtful = [each for each in same if not each.never] or same
            rooms = [each.not_before for each in doubtful if each.not_before is not None]
            least = min(rooms, default=None)
            pooled.append(replace(doubtful[-1], not_before=least))
    return tuple(sorted(pooled, key=lambda each: (each.never, each.not_before or 0, each.resource)))


def _key(each: Limit | LeftOut) -> tuple[str, str, str]:
    """A fresh server has another pid."""
    return each.resource, _PID.sub("", each.scope), _PID.sub("", each.source)


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
