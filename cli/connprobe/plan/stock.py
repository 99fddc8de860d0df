"""How much of a run its workers are dealt at the start, and how much goes to those who are quicker. Pure.

Where the server runs on the same CPUs it is not beside all workers alike, and one may be done while another
has a third of its share before it: half of all is dealt, the rest is taken ticket by ticket.
"""

from collections.abc import Sequence
from typing import NamedTuple

TICKET = 128  # connections: a burst of io_uring
MOST_TICKETS = 4096  # a byte each: what a pipe takes, also one of a user who has many


class Part(NamedTuple):
    goal: int  # connections that the worker is dealt
    most: int  # with those that it may take


def deal_out(shares: Sequence[int], room: int) -> tuple[list[Part], bytes]:
    """What each worker is dealt of its share, and the tickets for the rest: of so many connections each.

    room: connections that a worker has descriptors for, as many as the largest share at least.
    """
    most = [min(2 * share, room) for share in shares]
    # Who has no room for a whole ticket takes none: where each has for one more, all of them are taken.
    spare = min(it - share for it, share in zip(most, shares, strict=True)) >= TICKET
    left_each = TICKET * MOST_TICKETS // len(shares) if spare else 0
    parts = [
        Part(share - min(share // 2, left_each), max(share, it))
        for share, it in zip(shares, most, strict=True)
    ]
    left = sum(shares) - sum(part.goal for part in parts)
    return parts, bytes([TICKET] * (left // TICKET) + [left % TICKET] * bool(left % TICKET))
