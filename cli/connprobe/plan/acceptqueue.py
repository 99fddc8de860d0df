"""What the kernel's counters say about a full accept queue, where they differ, and what bounds the queue.

Three count, and no two the same (seen on Linux 6.18, listen(3), 23 connects, in tests/observe):
- ListenOverflows of the namespace: a SYN, or the ACK that ends a handshake, found the accept queue full.
- ListenDrops of the namespace: these, and SYNs dropped for another reason. So the two must not be added.
- sk_drops of a listener: all of its ListenDrops; an overflow found at the ACK once more, as that packet is
  dropped too; and packets of which neither of the others knows.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Overflows(NamedTuple):
    """How many overflows some listeners had: from `low` to `high`, and one sentence on how that is known."""

    low: int
    high: int
    text: str

    @property
    def exact(self) -> bool:
        return self.low == self.high


class Ahead:
    """Those that waited to be accepted at one moment, by listener, and how many of them may wait still.

    A queue is first in, first out: once as many were taken from it as lay in it at first, all of these were,
    whoever queued up behind them. Its fall between two looks is the least that was taken meanwhile.
    """

    def __init__(self, depths: Mapping[int, int]) -> None:
        self._left, self._last = dict(depths), dict(depths)

    @property
    def left(self) -> int:
        """At most so many of them wait."""
        return sum(self._left.values())

    def see(self, depths: Mapping[int, int]) -> bool:
        """Whether there are fewer than at the last look. A listener that is gone has none."""
        before = self.left
        for listener, last in self._last.items():
            depth = depths.get(listener, 0)
            if depth < last:
                self._left[listener] = min(depth, max(0, self._left[listener] - (last - depth)))
            self._last[listener] = depth
        return self.left < before


def capacity(backlog: int) -> int:
    """How many connections may wait: sk_acceptq_is_full compares with >, so one more than the backlog."""
    return backlog + 1


def capacity_from(backlog: int, somaxconn: int | None) -> str:
    """What bounds it: the kernel keeps the smaller of listen(2)'s argument and somaxconn, as it was then."""
    if somaxconn is None:
        return f"{backlog}: backlog argument of listen(2) or net.core.somaxconn, whichever is smaller"
    if backlog < somaxconn:
        return f"backlog argument of listen(2): {backlog} (or an earlier net.core.somaxconn; {somaxconn} now)"
    if backlog == somaxconn:
        return f"net.core.somaxconn: {somaxconn} (or a backlog argument of the same size)"
    return f"{backlog}: from listen(2) when net.core.somaxconn was higher; {somaxconn} now, at its next call"


def reconcile_overflows(
    sk_drops: int, other_sk_drops: int | None, listen_overflows: int | None, listen_drops: int | None
) -> Overflows:
    """sk_drops of the listeners in question against the counters of their namespace, all since one moment.

    other_sk_drops: of all other listeners of the namespace; None: not known. The counters: None where the
    kernel does not have them.
    """
    if listen_overflows is None or listen_drops is None:
        text = f"sk_drops counts {sk_drops:,} packets, overflows or not: the namespace's counters are missing"
        return Overflows(0, sk_drops, text)
    high = min(sk_drops, listen_overflows)
    # An overflow raises the sk_drops of its listener by one at least.
    low = 0 if other_sk_drops is None else min(high, max(0, listen_overflows - other_sk_drops))
    if sk_drops == listen_overflows == listen_drops:
        all_agree = f"sk_drops, ListenOverflows and ListenDrops agree on {sk_drops:,}"
        return Overflows(low, high, all_agree)
    reasons = []
    if sk_drops > listen_drops:
        reasons.append(
            f"sk_drops is {sk_drops - listen_drops:,} above ListenDrops, as it counts an overflow at the ACK "
            "twice, and also ACKs that TCP_DEFER_ACCEPT holds back and packets that a filter refuses"
        )
    elif sk_drops < listen_drops:
        reasons.append(
            f"{listen_drops - sk_drops:,} of the network namespace's {listen_drops:,} ListenDrops "
            "are of other listeners"
        )
    if listen_drops > listen_overflows:
        reasons.append(
            f"{listen_drops - listen_overflows:,} ListenDrops are no overflows: the SYN queue was full, "
            "or memory was short"
        )
    elif listen_overflows > listen_drops:
        reasons.append("ListenOverflows was read later than ListenDrops")
    return Overflows(low, high, "; ".join(reasons))
