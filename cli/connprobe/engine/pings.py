"""Pinging held WebSockets: a slice at a time during the hold, all of them in the check at its end."""

from collections import deque
from collections.abc import Callable

from connprobe import causes
from connprobe.engine.held import HeldSet, Lost

PINGS_PER_TURN = 256


class Pings:
    """Walks over the held descriptors. Which await a pong is in their state; here are only places and times.

    drop(fd, cause, detail) is called for a connection that is lost. interval_s 0: no pings but the check's.
    """

    def __init__(
        self, held: HeldSet, drop: Callable[[int, str, str], None], interval_s: float, timeout_s: float
    ) -> None:
        self._held, self._drop = held, drop
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._cursor = 0
        self._debt = 0.0
        self._sent: deque[tuple[float, int, int]] = deque()  # (pong due, first fd, past last fd)
        self._check_due = 0.0

    def tick(self, now: float, elapsed_s: float) -> None:
        """Pings a slice, so that each is pinged once in an interval; drops those whose pong is overdue."""
        while self._sent and self._sent[0][0] <= now:
            self._drop_unanswered(*self._sent.popleft()[1:])
        if not self._interval_s or not self._held.count:
            return
        owed = self._debt + self._held.count * elapsed_s / self._interval_s
        self._debt = min(owed, self._held.count)  # one round at the most: no flood after a stall
        self._ping_slice(now, min(int(self._debt), PINGS_PER_TURN))

    def _ping_slice(self, now: float, most: int) -> None:
        """A slice of the round before whose pongs are not yet due is not entered: its check would take the
        new ping, a moment old, for the one that was never answered."""
        size, first = len(self._held.state), self._cursor
        end = self._sent[0][1] if self._sent and self._sent[0][1] >= first else size
        for _ in range(most):
            fd = self._held.next_held(self._cursor, end)
            if fd < 0:
                self._cursor = end
                break
            self._cursor = fd + 1
            self._debt -= 1
            self._ping(fd)
        if self._cursor > first:
            self._sent.append((now + min(self._timeout_s, self._interval_s), first, self._cursor))
        if self._cursor == size:
            self._cursor = 0

    def begin_check(self) -> None:
        """From now on `check` counts; periodic pings are over."""
        self._sent.clear()
        self._interval_s = 0.0
        self._cursor = 0

    def check(self, now: float) -> bool | None:
        """True: every connection has answered or was dropped. None: there are more to ping. False: wait."""
        size = len(self._held.state)
        for _ in range(PINGS_PER_TURN):
            fd = self._held.next_held(self._cursor, size)
            if fd < 0:
                break
            self._cursor = fd + 1
            self._ping(fd)
        else:
            self._check_due = now + self._timeout_s
            return None
        if self._cursor < size:
            self._cursor = size
            self._check_due = now + self._timeout_s
        if self._held.next_unanswered(0, size) >= 0 and now < self._check_due:
            return False
        self._drop_unanswered(0, size)
        return True

    def _ping(self, fd: int) -> None:
        try:
            self._held.ping(fd)
        except Lost as lost:
            self._drop(fd, lost.cause, lost.detail)

    def _drop_unanswered(self, first: int, last: int) -> None:
        fd = self._held.next_unanswered(first, last)
        while fd >= 0:
            self._drop(fd, causes.TIMEOUT, "no pong")
            fd = self._held.next_unanswered(fd + 1, last)
