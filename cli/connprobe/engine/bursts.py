"""Whether io_uring opens the connections of a worker and reads their answers, and what it says when it does.

It does for first attempts, many at a time, that begin with a request over plain TCP from a port that the
kernel chooses; where it is there at all; and as long as most handshakes of TCP are over at once: far away
each would only be begun there, and cancelled. And in a few processes alone: each takes some more memory.
"""

import errno
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from connprobe.engine.sources import Sources, sockaddr
from connprobe.engine.task import Task

if TYPE_CHECKING:
    from connprobe.engine.ring import Ring

LEAST, MOST = 16, 128  # connections; for fewer it is not worth it, and more would take more memory
WAITS = -errno.EINPROGRESS  # of an outcome
UNTOLD = 1  # of one to be watched: the ring failed before it was known whether epoll does
ReadAndWatched = tuple[list[int], bytes, list[int]]  # see Ring.read_and_watch


class Bursts:
    """opened: connections that io_uring made. serves: until it is found that it cannot.

    apart: entered while a burst is opened, for which others may work.
    """

    def __init__(
        self,
        task: Task,
        epoll_fd: int,
        *,
        speaks_first: bool,
        apart: AbstractContextManager[None],
    ) -> None:
        self.opened, self._apart = 0, apart
        self._task, self._epoll_fd = task, epoll_fd
        self._ring: Ring | None = None
        self._binds = all(address for address, *_ in task.sources)
        alike = self._binds or not any(address for address, *_ in task.sources)
        chosen = all(ports is None for *_, ports in task.sources)
        # Visits are short, and their times are what is asked for: each is to be timed by itself.
        self.serves = task.bursts and speaks_first and task.visits is None and alike and chosen

    def ready(self, request_bytes: int) -> bool:
        """Makes the ring, if there is none."""
        if self.serves and self._ring is None:
            from connprobe.engine.ring import Ring

            target, port, *_ = self._task.target
            scope_id = self._task.target[3] if len(self._task.target) == 4 else 0
            try:
                to = sockaddr(str(target), int(port), int(scope_id))
                family, fd = self._task.family, self._epoll_fd
                self._ring = Ring(family, to, request_bytes, fd, binds=self._binds)
            except OSError:  # an old kernel, seccomp, kernel.io_uring_disabled
                self.serves = False
        return self.serves

    def open(
        self, requests: bytes, sources: Sources, number: int, *, mark: bool
    ) -> tuple[Sequence[int], list[int] | None] | None:
        """(descriptors, outcomes) of `number`: see Ring.open. None: it cannot, and nothing was begun."""
        assert self._ring is not None
        try:
            addresses = sources.sockaddrs(number)
            with self._apart:
                opened = self._ring.open(requests, addresses, mark=mark)
        except OSError:
            self.serves = False
            self.rest()
            return None
        fds, outcomes = opened
        self.opened += len(fds)
        if outcomes is not None:
            self.opened -= fds.count(-1)
            self.serves = outcomes.count(WAITS) * 2 <= len(outcomes)
        return opened

    def reads(self, answer_bytes: int) -> bool:
        """Whether `read` has room for answers of that length."""
        return self._ring is not None and answer_bytes <= self._ring.room

    def read(self, fds: Sequence[int], answer_bytes: int) -> tuple[list[int], bytes] | None:
        """See Ring.read. None: it cannot."""
        try:
            return None if self._ring is None else self._ring.read(fds, answer_bytes)
        except OSError:
            self.serves = False
            self.rest()
            return None

    def read_and_watch(self, fds: Sequence[int], answer_bytes: int) -> ReadAndWatched | None:
        """See Ring.read_and_watch. None: it cannot, and nothing was done."""
        try:
            return None if self._ring is None else self._ring.read_and_watch(fds, answer_bytes)
        except OSError:
            self.serves = False
            self.rest()
            return None

    @property
    def marks(self) -> Sequence[int]:
        """Of the last burst: see Ring.open."""
        return () if self._ring is None else self._ring.marks

    @property
    def late(self) -> Mapping[int, int]:
        """Of the last burst those that were lost after their request was sent: descriptor -> errno."""
        return {} if self._ring is None else self._ring.late

    def rest(self) -> None:
        """There is nothing to open for now: what bursts took is given back."""
        if self._ring is not None:
            from connprobe.engine.ring import trim_heap

            self._ring.close()
            self._ring = None
            trim_heap()
