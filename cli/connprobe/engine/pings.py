"""Pinging held WebSockets: a slice at a time during the hold, all of them in the check at its end."""

from collections import deque
from collections.abc import Callable

from connprobe import causes
from connprobe.engine.held import ROUNDS, HeldSet, Lost

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
        self._round, self._round_until = 0, 0.0  # pings sent close together share a number
        self._sent: deque[tuple[float, int]] = deque()  # (pong due, round)
        self._check_due = 0.0

    def tick(self, now: float, elapsed_s: float) -> bool:
        """Pings a slice, so that each is pinged once in an interval; drops those whose pong is overdue.

        True: more are due at once. A connection whose pong is still awaited is passed over.
        """
        while self._sent and self._sent[0][0] <= now:
            self._drop_silent(self._held.unanswered(self._sent.popleft()[1]))
        if not self._interval_s or not self._held.count:
            return False
        owed = self._debt + self._held.count * elapsed_s / self._interval_s
        self._debt = min(owed, self._held.count)  # one round at the most: no flood after a stall
        if now >= self._round_until:
            self._round += 1
            self._round_until = now + self._timeout_s / (ROUNDS - 50)  # so that fewer than ROUNDS are open
            self._sent.append((0.0, self._round))
        for _ in range(min(int(self._debt), PINGS_PER_TURN)):
            if not self._ping_next():
                self._cursor = 0
                self._debt -= 1
                break
            self._debt -= 1
        self._sent[-1] = (now + self._timeout_s, self._round)
        return self._debt >= PINGS_PER_TURN

    def begin_check(self) -> None:
        """From now on `check` counts; periodic pings are over."""
        self._sent.clear()
        self._interval_s = 0.0
        self._cursor = 0

    def check(self, now: float) -> bool | None:
        """True: every connection has answered or was dropped. None: there are more to ping. False: wait."""
        for _ in range(PINGS_PER_TURN):
            if not self._ping_next():
                break
            self._check_due = now + self._timeout_s
        else:
            return None
        if self._held.awaiting and now < self._check_due:
            return False
        self._drop_silent(self._held.unanswered())
        return True

    def _ping_next(self) -> bool:
        fd = self._held.next_held(self._cursor)
        if fd < 0:
            return False
        self._cursor = fd + 1
        try:
            self._held.ping(fd, self._round)
        except Lost as lost:
            self._drop(fd, lost.cause, lost.detail)
        return True

    def _drop_silent(self, fds: list[int]) -> None:
        for fd in fds:
            self._drop(fd, causes.TIMEOUT, "no pong")
