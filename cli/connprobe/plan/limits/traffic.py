"""Limits that traffic meets rather than connections held: bursts at the accept queue, messages at the CPU."""

import math
from collections.abc import Sequence
from itertools import pairwise

from msgspec.structs import replace

from connprobe.model import Interval, Limit, ListenerFigures, Trial
from connprobe.plan.limits.stages import SHORTEST_S

MOST = 1 << 53
CERTAIN = 1.1  # times: less is the ticks that CPU time is told in


def burst_limit(
    rate_per_s: float | None, stall_s: float, capacity: int, *, scope: str, source: str, fix: str
) -> Limit | None:
    """How many new connections a second an accept queue takes while its server does not accept for stall_s.

    capacity: places, backlog + 1 (`plan.acceptqueue.capacity`). In the result per_connection is the places
    that one connection a second fills in such a stall (stall_s), and `connections` are those that may come
    in a second; used: the places that rate_per_s, the rate seen, fills. None: no stall, or none that even
    one connection a second would notice.
    """
    if not math.isfinite(stall_s) or stall_s <= 0 or capacity <= 0 or capacity / stall_s >= MOST:
        return None
    most = math.floor(capacity / stall_s + 1e-9)
    used = None if rate_per_s is None else min(float(capacity), rate_per_s * stall_s)
    stall = f"{stall_s:,.3g} s" if stall_s >= 1 else f"{stall_s * 1000:,.3g} ms"
    note = f"new connections a second, in a stall of {stall}"
    if rate_per_s is not None and rate_per_s * stall_s > capacity:
        note += f"; at the {rate_per_s:,.0f} a second seen, such a stall overflows it"
    return Limit(
        resource="accept_queue",
        scope=scope,
        capacity=float(capacity),
        per_connection=stall_s,
        connections=most,
        low=most,
        high=most,
        fix=fix,
        unit="connections",
        used=used,
        source=source,
        note=note,
    )


def burst_limits(listeners: Sequence[ListenerFigures], rate_per_s: float | None) -> list[Limit]:
    """Of each listener in which connections were seen to wait, at the longest that one waited."""
    found = []
    for listener in listeners:
        if listener.wait_ms is None or listener.capacity is None:
            continue
        longest = (listener.wait_ms, listener.wait_least_ms or listener.wait_ms)
        about = ", at least" if listener.wait_least_ms is not None else ""
        most, least = (
            burst_limit(
                rate_per_s,
                wait.max / 1000,
                listener.capacity,
                scope=f"listener {listener.address}",
                source=f"backlog + 1, and the longest that a connection waited for accept{about}",
                fix="a larger backlog in listen(2), and net.core.somaxconn",
            )
            for wait in longest
        )
        if least is not None:  # or it is not known that one waited at all
            found.append(replace(least, low=most.low if most is not None else 0))
    return found


def cpus_used(trials: Sequence[Trial]) -> float:
    """CPUs that the server was seen to use at once, at the most, over a stage or between two readings."""
    shares = [0.0]
    for trial in trials:
        for before, after in pairwise(trial.readings):
            took = after.at_s - before.at_s
            if before.cpu_s is not None and after.cpu_s is not None and took >= SHORTEST_S:
                shares.append((after.cpu_s - before.cpu_s) / took)
        if trial.message_cpu_s is not None and trial.messaging_s and trial.messaging_s >= SHORTEST_S:
            shares.append(trial.message_cpu_s / trial.messaging_s)
    return max(shares)


def cpus_of(used: float, processes: int, threads: int | None, host: int) -> tuple[float, str | None]:
    """(CPUs that a server can use as far as is known, what to know of that figure).

    used: that it was seen to use. A process with threads may use one CPU (Node) or all (Go): which cannot be
    told from the outside before it does.
    """
    least = min(processes, host)
    if used > CERTAIN * least:
        return min(used, host), f"it used {used:.2g} CPUs at once: as many at the least"
    if host > processes and threads != processes:
        return least, "one CPU for each process: more if it is threaded"
    return least, None


def cpu_limit(
    message_cpu_s: Interval | None,
    idle_cpu_share: Interval | None,
    cpus: float,
    *,
    held: int,
    scope: str,
    source: str,
    fix: str,
    messages_per_s: float = 1.0,
    note: str | None = None,
) -> Limit | None:
    """Connections that keep `cpus` busy (1 for a server of one thread), each with messages_per_s messages.

    message_cpu_s: the server's CPU seconds for one message. idle_cpu_share: of one CPU, for one connection
    without messages. In the result, capacity is in CPUs and per_connection the share of one that a
    connection takes. None: neither is known, or nothing is used.
    """
    each = low = high = 0.0
    for interval, times in ((message_cpu_s, messages_per_s), (idle_cpu_share, 1.0)):
        if interval is not None:
            each += times * max(0.0, interval.mean)
            low += times * max(0.0, interval.mean if interval.low is None else interval.low)
            high += times * max(0.0, interval.mean if interval.high is None else interval.high)
    if not math.isfinite(high) or each <= 0 or cpus <= 0 or cpus / each >= MOST:
        return None
    connections = math.floor(cpus / each + 1e-9)
    messages = f"{messages_per_s:,.3g} messages" if messages_per_s != 1 else "one message"
    what = f"at {messages} a second on each connection" if message_cpu_s and messages_per_s else "idle"
    return Limit(
        resource="cpu",
        scope=scope,
        capacity=float(cpus),
        per_connection=each,
        connections=connections,
        low=min(connections, math.floor(cpus / high + 1e-9)),
        high=max(connections, math.ceil(min(MOST, cpus / low - 1e-9))) if low > 0 else MOST,
        fix=fix,
        source=source,
        beyond=connections / held if held > 0 else None,
        note="; ".join(it for it in (what, note) if it),
    )
