"""How long connections waited in a queue that is first in, first out: from looks at who waits longest."""

from collections import deque
from collections.abc import Iterator


class QueueOrder:
    """One queue. Its looks come one after the other; microseconds of any clock."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()  # when they came
        self._last_us: int | None = None

    def look(self, time_us: int, oldest_us: int, *, arrived: bool) -> Iterator[tuple[int, int]]:
        """(at least, at most) so long waited each connection that came, and is found to be gone by now.

        arrived: one has just come. oldest_us: when the one came that has waited longest; later than time_us
        where none waits. One that is gone was still there at the look before.
        """
        if arrived:
            self._waiting.append(time_us)
        while self._waiting and self._waiting[0] < oldest_us:
            came_us = self._waiting.popleft()
            most = max(0, time_us - came_us)
            seen_us = came_us if self._last_us is None else self._last_us
            yield min(most, max(0, seen_us - came_us)), most
        self._last_us = time_us
