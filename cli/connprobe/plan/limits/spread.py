"""When the fullest of several processes is full, where connections do not come to them alike.

Workers that accept from one listener, or from one each by hash, get uneven shares that change: the line of
the fullest is no straight one. But the descriptors of all of them together grow by a whole number.
"""

from typing import Final

from connprobe.model import Ceiling, Growth
from connprobe.plan.limits.crossing import Crossing

OF_ONE_PROCESS: Final = frozenset({"process_fds", "process_fds_grown"})


def spread(ceiling: Ceiling, all_of_them: Growth | None, fullest: Growth | None, at: int) -> Crossing | None:
    """From all further connections on the fullest to all processes alike; between them by what it had so far.

    ceiling: of each process; `used` of the fullest, at `at` connections. all_of_them: the growth of all
    descriptors. fullest: of those of the fullest, where it could be fitted. None: `all_of_them` is not known.
    """
    if all_of_them is None or all_of_them.low <= 0:
        return None
    processes, each = ceiling.processes, all_of_them.per_connection
    taken = 0.0 if ceiling.used is None else ceiling.used
    since = 0 if ceiling.used is None else at
    room = max(0.0, ceiling.capacity - taken)
    low = since + room / all_of_them.high
    high = max(low, processes * ceiling.capacity / all_of_them.low)
    share = _share(ceiling, all_of_them, fullest, at)
    likely = (
        (low + high) / 2 if share is None else since + room / (each * min(1.0, max(share, 1 / processes)))
    )
    return Crossing(min(max(likely, low), high), low, high)


def _share(ceiling: Ceiling, all_of_them: Growth, fullest: Growth | None, at: int) -> float | None:
    """Of the descriptors that came with connections, how many the fullest got. None: not known."""
    grown = all_of_them.per_connection * at
    if at <= 0 or grown <= 0:
        return None
    if fullest is not None and fullest.per_connection > 0:
        return fullest.per_connection / all_of_them.per_connection
    if ceiling.used is None:
        return None
    return ceiling.used / (all_of_them.base + grown)
