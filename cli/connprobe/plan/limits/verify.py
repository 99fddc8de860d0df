"""What broke, and which resource was at its end: from what was seen in the last moments of a server."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from connprobe.causes import FD_LIMIT, NO_SOURCE_PORT, WORKER_LOST
from connprobe.model import Limit, Verified
from connprobe.plan.limits.ramp import APPROACHED
from connprobe.plan.limits.resources import is_client

OF_THE_CLIENT: Final = frozenset({NO_SOURCE_PORT, FD_LIMIT, WORKER_LOST})
FULL: Final = {True: 0.98, False: 0.85}  # of a capacity that is kept to the letter, and of one approached
# What a runtime says as it dies for want of heap.
OUT_OF_HEAP: Final = ("heap out of memory", "OutOfMemoryError", "Java heap space")
KILLED = -9
TOLD_SHARE = 0.01  # of the connections: an error is told of an end that is known as well as that


class End(NamedTuple):
    """connections: that were alive at once, at most. cause: in words. died: and with which status.

    most: where connections are only known to be so many at least; None: they are exact.
    """

    connections: int
    cause: str
    failures: Mapping[str, int]  # by cause, since the verifying began
    drops: Mapping[str, int]
    died: bool = False
    status: int | None = None
    last_words: str = ""
    reached: bool = False  # all that could be opened was, and nothing broke
    most: int | None = None


def verified(end: End, limits: Sequence[Limit]) -> Verified:
    """limits: as predicted, sorted; of one trial, the server's own."""
    first = next((limit for limit in limits if is_of_server(limit)), None)
    if end.reached:
        side, resource = "none", None
    elif of_client(end):
        side, resource = "client", None
    else:
        side, resource = "server", at_its_end(end, limits)
    judged = first if side == "server" else None
    most = end.connections if end.most is None else end.most
    told = most - end.connections <= TOLD_SHARE * end.connections
    return Verified(
        connections=end.connections,
        resource=resource,
        cause=end.cause,
        side="none" if side == "none" else "client" if side == "client" else "server",
        predicted=None if first is None else first.connections,
        error=(judged.connections - end.connections) / end.connections
        if judged and end.connections and told
        else None,
        inside=_inside(judged, end.connections, most) if judged else None,
        most=end.most,
    )


def _inside(limit: Limit, least: int, most: int) -> bool | None:
    """None: that depends on where between the two it was."""
    if limit.low <= least and most <= limit.high:
        return True
    return False if most < limit.low or least > limit.high else None


def of_client(end: End) -> bool:
    """Most of what failed, failed at this end."""
    failed = {
        cause: end.failures.get(cause, 0) + end.drops.get(cause, 0) for cause in {*end.failures, *end.drops}
    }
    ours = sum(number for cause, number in failed.items() if cause in OF_THE_CLIENT)
    return not end.died and 2 * ours > sum(failed.values())


def at_its_end(end: End, limits: Sequence[Limit]) -> str | None:
    """The resource that was fullest, if one was full. None: none was, so the cause is none that is known."""
    if end.died and any(words in end.last_words for words in OUT_OF_HEAP):
        return "heap"
    fullest: tuple[float, str] | None = None
    for limit in limits:
        if not is_of_server(limit):
            continue
        approached = limit.resource in APPROACHED
        if end.died and end.status == KILLED and limit.resource not in ("memory", "cgroup_memory"):
            continue  # SIGKILL is what the kernel sends when memory is at its end
        share = filled(limit, end.connections)
        if share >= FULL[not approached] and (fullest is None or share > fullest[0]):
            fullest = share, limit.resource
    return fullest[1] if fullest else None


def filled(limit: Limit, connections: int) -> float:
    """How much of its capacity so many connections take, by its line."""
    if limit.capacity <= 0:
        return 1.0
    by_line = ((limit.base or 0.0) + limit.per_connection * connections) / limit.capacity
    return by_line if math.isfinite(by_line) else 0.0


def is_of_server(limit: Limit) -> bool:
    return not is_client(limit) and limit.resource not in ("accept_queue", "cpu")
