"""Time in the accept queue from its order, by listening address: what no hook shows as it is accepted."""

from collections import Counter
from collections.abc import Container, Iterable, Set
from typing import Final

from connprobe.kernel.accept_queue import AcceptQueue, Look
from connprobe.plan.distribution import distribution
from connprobe.plan.histogram import BUCKETS, bucket
from connprobe.plan.queueorder import QueueOrder
from connprobe.session.kernel.waits import Wait

ADDRESSES_KEPT: Final = 1024  # those where nothing listens any more go first
_READINGS: Final = 3  # that one which was closed is known for: that its accepts were not seen is known late


class _Bound:
    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total_us = self.longest_us = 0

    def add(self, microseconds: list[int]) -> None:
        for value, times in Counter(microseconds).items():
            self.counts[bucket(value)] += times
        self.total_us += sum(microseconds)
        self.longest_us = max(self.longest_us, *microseconds)


class Order:
    """Takes looks at the queues. `mine`: the inodes of the listeners that are meant."""

    def __init__(self) -> None:
        self._address: dict[int, str] = {}
        self._closed: dict[int, int] = {}  # how many readings ago
        self._queues: dict[int, QueueOrder] = {}
        self._bounds: dict[str, tuple[_Bound, _Bound]] = {}

    @property
    def wanted(self) -> Container[int]:
        """The inodes of those whose looks are meant: that listen, or did a while ago."""
        return self._address.keys()

    def meet(self, queues: Iterable[AcceptQueue], mine: Set[int]) -> None:
        """One reading: who listens where."""
        self._closed = {inode: ago + 1 for inode, ago in self._closed.items()}
        for inode in [inode for inode, ago in self._closed.items() if ago == _READINGS]:
            del self._closed[inode], self._address[inode]
            self._queues.pop(inode, None)
        for queue in queues:
            (inode,) = queue.inodes
            if inode in mine:
                self._address[inode] = str(queue.at)
            if queue.closed and inode in self._address:
                self._closed[inode] = 0
        listening = set(self._address.values())
        idle = [address for address in self._bounds if address not in listening]
        for address in idle[: max(0, len(self._bounds) - ADDRESSES_KEPT)]:
            del self._bounds[address]

    def take(self, looks: Iterable[Look]) -> None:
        """What was seen since the call before, of all that are meant."""
        gone: dict[int, list[tuple[int, int]]] = {}
        for look in looks:
            order = self._queues.setdefault(look.inode, QueueOrder())
            if look.arrived:
                order.arrived(look.time_us)
            if look.oldest_us is not None and (found := order.look(look.time_us, look.oldest_us)):
                gone.setdefault(look.inode, []).extend(found)
            if look.closed:
                order.closed()
        for inode, found in gone.items():
            least, most = self._bounds.setdefault(self._address[inode], (_Bound(), _Bound()))
            least.add([bound for bound, _ in found])
            most.add([bound for _, bound in found])

    def at(self, address: str) -> Wait | None:
        """None: nobody is known to have left that queue."""
        least, most = (
            distribution(each.counts, each.total_us, each.longest_us)
            for each in self._bounds.get(address, (_Bound(), _Bound()))
        )
        return None if most is None else Wait(most, least)
