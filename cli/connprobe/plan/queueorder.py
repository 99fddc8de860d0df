"""How long connections waited in a queue that is first in, first out: from looks at who waits longest."""

from collections import deque


class QueueOrder:
    """One queue. Its looks come one after the other; microseconds of any clock."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()  # when they came
        self._last_us: int | None = None

    def arrived(self, time_us: int) -> None:
        """One has come. What the queue looks like then is told to `look`, next."""
        self._waiting.append(time_us)

    def look(self, time_us: int, oldest_us: int) -> list[tuple[int, int]]:
        """(at least, at most) so long waited each connection that came, and is found to be gone by now.

        oldest_us: when the one came that has waited longest; later than time_us where none waits. One that
        is gone was still there at the look before.
        """
        waiting, found = self._waiting, []
        while waiting and waiting[0] < oldest_us:
            came_us = waiting.popleft()
            most = max(0, time_us - came_us)
            least = 0 if self._last_us is None else self._last_us - came_us
            found.append((min(most, max(0, least)), most))
        self._last_us = time_us
        return found

    def closed(self) -> None:
        """Those that wait are thrown away."""
        self._waiting.clear()
