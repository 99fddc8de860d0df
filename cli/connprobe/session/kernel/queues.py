"""Accept queues by eBPF over a whole run, by listening address: what was closed keeps its totals.

Listeners come and go for days on a machine that is watched: those that are closed are summed, and no more
than the last few of an address are told apart.
"""

from collections.abc import Callable, Iterable, Set
from typing import Final, NamedTuple

from msgspec.structs import replace

from connprobe.kernel.accept_queue import AcceptQueue
from connprobe.model import ListenerFigures, ListenSocketFigures, QueueSample
from connprobe.plan.acceptqueue import capacity_from, reconcile_overflows
from connprobe.session.kernel.waits import Wait

CLOSED_KEPT: Final = 23  # sockets of one address, told apart after they were closed
ADDRESSES_KEPT: Final = 1024  # those where nothing listens any more go first


class _Queue(NamedTuple):
    """One listener over the whole run: its last reading, and its deepest."""

    last: AcceptQueue
    depth_max: int

    def seen(self, now: AcceptQueue) -> "_Queue":
        return _Queue(now, max(now.depth_max, self.depth_max))

    @property
    def fullness(self) -> float:
        return self.last.depth_max / max(1, self.last.capacity)

    def figures(self) -> ListenSocketFigures:
        return ListenSocketFigures(
            inode=self.last.inodes[0],
            depth=None if self.last.closed else self.last.depth,
            depth_max=self.depth_max,
            capacity=self.last.capacity,
            overflows=self.last.overflows,
            gone=self.last.closed,
        )


class _Address:
    """All that listened on one address. More than one at a time are an SO_REUSEPORT group."""

    def __init__(self) -> None:
        self.live: dict[int, _Queue] = {}
        self.closed: list[_Queue] = []
        self.depth_max = 0
        self._closed_enqueued = self._closed_accepted = self._closed_overflows = 0

    def see(self, queue: AcceptQueue) -> None:
        (inode,) = queue.inodes
        now = self.live.pop(inode, _Queue(queue, 0)).seen(queue)
        self.depth_max = max(self.depth_max, now.depth_max)
        if not queue.closed:
            self.live[inode] = now
            return
        self._closed_enqueued += queue.enqueued
        self._closed_accepted += queue.accepted
        self._closed_overflows += queue.overflows
        self.closed = [*self.closed, now][-CLOSED_KEPT:]

    @property
    def enqueued(self) -> int:
        return self._closed_enqueued + sum(each.last.enqueued for each in self.live.values())

    @property
    def accepted(self) -> int:
        return self._closed_accepted + sum(each.last.accepted for each in self.live.values())

    @property
    def overflows(self) -> int:
        return self._closed_overflows + sum(each.last.overflows for each in self.live.values())

    @property
    def latest(self) -> list[_Queue]:
        """Those that listen, or the one that did so last."""
        return [*self.live.values()] or self.closed[-1:]


class Queues:
    """Takes what the probe accept_queue reads. `mine`: the inodes of the listeners that are meant.

    One that is closed is given a last time, after sock_diag has stopped to name it: what was once meant
    stays so until then. netns: the inode of their network namespace, whose counters are shared with others.
    """

    def __init__(self, somaxconn: int | None, netns: int | None) -> None:
        self._somaxconn, self._netns = somaxconn, netns
        self._addresses: dict[str, _Address] = {}
        self._mine: set[int] = set()
        self._others_live: dict[int, int] = {}
        self._others_closed = 0

    def take(self, queues: Iterable[AcceptQueue], mine: Set[int]) -> None:
        """One reading: all listeners that the probe knows, of every network namespace."""
        met = self._mine | mine
        self._mine = set()
        others: dict[int, int] = {}
        for queue in queues:
            (inode,) = queue.inodes
            if inode in met:
                self._addresses.setdefault(str(queue.at), _Address()).see(queue)
                if not queue.closed:
                    self._mine.add(inode)
            elif queue.at.netns == self._netns:
                others[inode] = 0 if queue.closed else queue.overflows
                self._others_closed += queue.overflows if queue.closed else 0
        self._others_live = others
        idle = [address for address, each in self._addresses.items() if not each.live]
        for address in idle[: max(0, len(self._addresses) - ADDRESSES_KEPT)]:
            self._others_closed += self._addresses.pop(address).overflows

    @property
    def inodes(self) -> Set[int]:
        """Of the listeners that were seen, and listen."""
        return self._mine

    def taken(self) -> dict[str, int]:
        """By address, out of its queues over the whole run: at least so many, in whatever way."""
        return {at: each.accepted for at, each in self._addresses.items()}

    def samples(self, wait_at: Callable[[str], Wait | None]) -> list[QueueSample]:
        """One for each address where something listens now."""
        return [
            with_wait(self._sample(at, each), wait_at(at))
            for at, each in self._addresses.items()
            if each.live
        ]

    @staticmethod
    def _sample(at: str, address: _Address) -> QueueSample:
        live = address.live.values()
        fullest = max(live, key=lambda each: each.fullness).last
        return QueueSample(
            address=at,
            sockets=len(live),
            depth=sum(each.last.depth for each in live),
            depth_max=fullest.depth_max,
            capacity_each=fullest.capacity,
            overflows=address.overflows,
            enqueued=address.enqueued,
            accepted=address.accepted,
        )

    def figures(
        self,
        wait_at: Callable[[str], Wait | None],
        counters: dict[str, int | None],
        source: str,
        lost: dict[str, int],
    ) -> tuple[ListenerFigures, ...]:
        """One for each address, over the whole run. counters: how far TCP's have moved since it began."""
        return tuple(
            self._figures(at, each, wait_at(at), counters, source, lost)
            for at, each in self._addresses.items()
        )

    def _figures(
        self,
        at: str,
        address: _Address,
        wait: Wait | None,
        counters: dict[str, int | None],
        source: str,
        lost: dict[str, int],
    ) -> ListenerFigures:
        others = self._others_closed + sum(self._others_live.values())
        others += sum(each.overflows for name, each in self._addresses.items() if name != at)
        overflows = reconcile_overflows(
            address.overflows, others, counters.get("ListenOverflows"), counters.get("ListenDrops")
        )
        reasons = [] if overflows.exact else [overflows.text]
        reasons += [f"not counted: {number:,} {cause}" for cause, number in lost.items()]
        bounds = sorted({queue.last.capacity - 1 for queue in address.latest})
        return ListenerFigures(
            address=at,
            depth_max=address.depth_max,
            capacity=sum(queue.last.capacity for queue in address.latest),
            overflows=overflows.high,
            wait_ms=wait.most if wait else None,
            wait_least_ms=wait.least if wait else None,
            source=source,
            complete=not reasons,
            reason="; ".join(reasons) or None,
            depth=sum(queue.last.depth for queue in address.live.values()) if address.live else None,
            capacity_from="; ".join(capacity_from(bound, self._somaxconn) for bound in bounds),
            sockets=tuple(queue.figures() for queue in (*address.live.values(), *address.closed)),
        )


def with_wait(sample: QueueSample, wait: Wait | None) -> QueueSample:
    if wait is None:
        return sample
    return replace(
        sample,
        wait_p50_ms=wait.most.p50,
        wait_p99_ms=wait.most.p99,
        wait_p50_least_ms=wait.least.p50 if wait.least else None,
        wait_p99_least_ms=wait.least.p99 if wait.least else None,
    )
