"""When a lost connection is opened again: exponential back-off, factor 2, full jitter.

A server that comes back is not trampled by all of its clients at once.
"""

import heapq
import os

FIRST_S, MOST_S = 0.1, 30.0


class Backoff:
    """Holds one (due, attempt) for each connection that waits. Times are the caller's, in seconds."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts  # 0: a lost connection stays lost
        self._waiting: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, attempts_made: int, now: float) -> bool:
        """Sets a time for the next attempt. False: there were enough."""
        if attempts_made >= self.attempts:
            return False
        ceiling = min(MOST_S, FIRST_S * 2**attempts_made)
        delay = ceiling * int.from_bytes(os.urandom(4), "big") / 2**32
        heapq.heappush(self._waiting, (now + delay, attempts_made + 1))
        return True

    def due(self, now: float) -> int | None:
        """The number of an attempt whose time has come, or None."""
        if self._waiting and self._waiting[0][0] <= now:
            return heapq.heappop(self._waiting)[1]
        return None
