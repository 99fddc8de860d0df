"""Which of many listeners on one port get the next connections. Pure.

Where descriptors ask for more processes than there are CPUs, connections that spread over all of them wake
each for a few. So they go to as many listeners as there are CPUs, and after a while to the ones after those.
"""

SHARE = 256  # connections that a listener gets before the one after the last takes its place
# So many more than its share one may have got while its process did not run: its descriptors might not last
# for what is to come. For the same reason the last connections of each process go to all but one at a time.
MOST_AHEAD, LAST = 1024, 3072
LEAST_ROOM = 8192  # of a process, in connections

Turns = tuple[int, int]  # the listener whose turn began first, counted on and on; how many have theirs


def at_a_time(listeners: int, room: int, cpus: int) -> int:
    """How many of them get connections at a time. room: connections that each one's process may have."""
    return min(listeners, cpus) if room >= LEAST_ROOM else listeners


def passed_on(
    turns: Turns, place: int, listeners: int, room: int, accepted: int, *, full: bool
) -> Turns | None:
    """Whose turn it is when the `place`-th has accepted so many since it listens. None: as before.

    full: it cannot take any more. Who had fewer than the others gets more in the next round. One that does
    not accept holds nobody up: those beside it come to their share, and go on.
    """
    first, having = turns
    ahead = (place - first) % listeners
    share = ((first + ahead) // listeners + 1) * SHARE
    if ahead >= having or (accepted < share and not full):
        return None
    if full or share > room - LAST or accepted > share + MOST_AHEAD:
        having = listeners - 1  # all but this one
    return first + ahead + 1, having
