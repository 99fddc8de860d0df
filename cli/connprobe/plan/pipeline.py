"""What is decided of requests that are pending on one connection: how far memory may grow, when a server
has stopped reading, and what all of it comes to in one sentence.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from connprobe.model import Ended, Growth, Limit
from connprobe.plan.limits.headline import rounded
from connprobe.plan.limits.limits import MOST
from connprobe.plan.limits.resources import SIZES, capacity, name

SAFE_SHARE = 0.5  # of the memory that is left: what an unstated bound may take
QUIET_S = 3.0  # not one byte read for so long, by a server whose CPU is quiet: it does not want any
QUIET_CPU = 0.05  # of one CPU
ANSWERED_SHARE = 0.5  # of what was received: a server that answers so many does not wait to be told
COSTS: Final = ("heap_bytes", "rss_bytes")  # the nearest to what a request takes comes first


class MemoryBound(NamedTuple):
    """bytes: of the server's RSS, at which sending stops."""

    bytes: int
    source: str


def memory_bound(
    asked: int | None, available_bytes: int, cgroup_bytes: int | None, rss_bytes: int
) -> MemoryBound:
    """asked: by the user. available_bytes: MemAvailable. cgroup_bytes: left in the tightest cgroup; None: no
    limit. rss_bytes: that the server has already.
    """
    if asked is not None:
        return MemoryBound(asked, "--memory-bound")
    of_host = cgroup_bytes is None or available_bytes <= cgroup_bytes
    left = available_bytes if of_host or cgroup_bytes is None else cgroup_bytes
    whose = "MemAvailable of /proc/meminfo" if of_host else "what its cgroup has left"
    return MemoryBound(rss_bytes + int(SAFE_SHARE * left), f"half of {whose}, at the start")


class StoppedReading:
    """Tells a server that does not want to go on from one that is busy. Feed it whenever you look."""

    def __init__(self, most_s: float, quiet_s: float = QUIET_S) -> None:
        """quiet_s: one with a quiet CPU is waited for so long, a busy one no longer than most_s."""
        self._most_s, self._quiet_s = most_s, quiet_s
        self._read: int | None = None
        self._since_s = self._cpu_s = 0.0

    def feed(self, now: float, read: int, waiting: bool, cpu_s: float) -> bool:
        """read: bytes so far. waiting: there is something to read. cpu_s: of the server, in all."""
        if read != self._read or not waiting:
            self._read, self._since_s, self._cpu_s = read, now, cpu_s
            return False
        still_s = now - self._since_s
        if still_s >= self._most_s:
            return True
        return still_s >= self._quiet_s and (cpu_s - self._cpu_s) / still_s <= QUIET_CPU


def budget(rate_per_s: float | None, elapsed_s: float, sent: int) -> int:
    """Requests that may be sent by now; the schedule goes on while the server does not read."""
    return 1 << 62 if rate_per_s is None else max(0, int(rate_per_s * elapsed_s) + 1 - sent)


def headline(
    *,
    ended: Ended,
    ended_by: str,
    pending: int,
    pending_most: int,
    received: int,
    answered: int,
    growth: Mapping[str, Growth],
    limits: Sequence[Limit],
    bound: Limit | None,
) -> str:
    """pending: the most at once, and pending_most the same, or between which two that was. growth: by metric.
    limits: as sorted. bound: where --memory-bound is met.
    """
    text = _held(ended, ended_by, pending, pending_most, received, answered)
    cost = next((growth[metric] for metric in COSTS if metric in growth), None)
    if cost is None:
        return f"{text}."
    where = "of its heap" if cost.metric == "heap_bytes" else "of its memory (RSS)"
    if cost.shape == "flat" or cost.low <= 0:
        return f"{text}; what each takes {where} is too little to be told."
    text += f"; each takes {each(cost)} {where}"
    first = next(iter(limits), bound)
    if first is None:
        return f"{text}."
    what = name(first)
    end = "would be met" if first is bound else "would end"
    approximate = ", by the memory of the process alone," if first.approximate else ""
    number, low, high = rounded(first)
    span = f"{low:,} to {high:,}" if high < MOST else f"{low:,} or more"
    at = f"about {number:,} ({span})" if low != high else f"{number:,}"
    beyond = ": a guess" if first.beyond is not None and first.beyond > 10 else ""
    the = what if what.startswith(("the ", "this ")) else f"the {what}"
    return f"{text}; {the}, {capacity(first)},{approximate} {end} at {at}{beyond}."


def each(cost: Growth) -> str:
    """ "1,512 B (1,498 to 1,526)", "12.6 kB (12 to 14)": no more digits than the interval justifies."""
    power = 0
    while power < 2 and cost.per_connection / 1000**power >= 9_999.5:
        power += 1
    scale = 1000.0**power
    value, low, high = (bound / scale for bound in (cost.per_connection, cost.low, cost.high))
    exponent = max(-1, math.floor(math.log10(max(high - low, 1e-9))) - 1)
    unit, digits = 10.0**exponent, 1 if exponent < 0 else 0

    def shown(number: float) -> str:
        return f"{unit * round(number / unit):,.{digits}f}"

    return f"{shown(value)} {SIZES[power]} ({shown(low)} to {shown(high)})"


def _held(ended: Ended, ended_by: str, pending: int, pending_most: int, received: int, answered: int) -> str:
    number = f"{pending:,}" if pending_most == pending else f"between {pending:,} and {pending_most:,}"
    requests = f"{number} request{'' if pending_most == 1 else 's'} of one connection pending"
    match ended:
        case "stopped_reading":
            some = f", of which it answered {answered:,}" if answered else ""
            return (
                f"The server stopped reading after {received:,} requests of one connection{some}: "
                "it bounds what is pending"
            )
        case "answered":
            return f"The server does not wait: it answered {answered:,} of {received:,} requests"
        case "memory_bound":
            return f"The server held {requests} when its memory reached the bound"
        case "died" | "lost":
            return f"The server held {requests}, until {ended_by}"
        case "interrupted":
            return f"The server held {requests} when the run was interrupted"
        case "count":
            return f"The server held {requests}"
