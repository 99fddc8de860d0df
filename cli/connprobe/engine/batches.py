"""Connections that were opened in one burst, until their answers are read together.

Of these epoll tells of a few alone, those that are marked. No I/O here: others read their descriptors.
"""

from collections import deque
from collections.abc import Sequence
from itertools import repeat

LEAST = 64  # connections: with fewer marks, one that is slow would stand for too many
LEAST_MORE_S = 0.002  # for marks that are told of later than the first
Event = tuple[int, int]  # (descriptor, what epoll says of it)


class Batch:
    """first: the place of its first connection, see Opening.requests."""

    __slots__ = ("awaited", "began", "fds", "first", "first_told")

    def __init__(self, fds: Sequence[int], first: int, began: float, awaited: int) -> None:
        self.fds, self.first, self.began = fds, first, began
        self.awaited = awaited  # marked ones of which epoll has not told anything
        self.first_told = 0.0  # when it told of the first

    @property
    def due(self) -> float:
        """When it is to be read, though not all of its marks were told of; of one of which some were."""
        return self.first_told + max(LEAST_MORE_S, (self.first_told - self.began) / 2)


class Batches:
    """Those of a worker. Their length: how many connections."""

    def __init__(self) -> None:
        self.by_age: deque[Batch] = deque()  # in the order in which they began
        self.marked: dict[int, Batch] = {}  # by descriptor: what epoll has not told of yet
        self._number = 0  # not summed up: every thread asks for that of all in each turn

    def __len__(self) -> int:
        return self._number

    def add(self, fds: Sequence[int], first: int, began: float, marks: Sequence[int]) -> None:
        batch = Batch(fds, first, began, len(marks))
        self.by_age.append(batch)
        self._number += len(fds)
        self.marked.update(zip(marks, repeat(batch)))

    def take(self, batch: Batch) -> None:
        """It is the caller's."""
        self.by_age.remove(batch)
        self._number -= len(batch.fds)
        if batch.awaited:
            for fd in [fd for fd, each in self.marked.items() if each is batch]:
                del self.marked[fd]

    def told(self, ready: Sequence[Event], arrived: float) -> tuple[Sequence[Event], bool]:
        """(events that are of no batch, whether there is anything to do)."""
        if not self.marked:
            return ready, True
        rest = []
        for event in ready:
            batch = self.marked.pop(event[0], None)
            if batch is None:
                rest.append(event)
                continue
            batch.awaited -= 1
            batch.first_told = batch.first_told or arrived
        return rest, bool(rest or not ready or self.due(arrived))

    def due(self, now: float) -> list[Batch]:
        """Those to be read: of all marks was told, or these take longer than the first by half."""
        return [batch for batch in self._partly_told() if not batch.awaited or batch.due <= now]

    def patience_s(self, now: float, most_s: float) -> float:
        """Until the next one is to be read, even if nothing is told; `most_s` at most."""
        return max(0.0, min([most_s, *(batch.due - now for batch in self._partly_told())]))

    def _partly_told(self) -> list[Batch]:
        return [batch for batch in self.by_age if batch.first_told]
