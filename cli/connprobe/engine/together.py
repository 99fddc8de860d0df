"""What the workers of one process may have under way at once: as its threads they put that together.

Each alone could open but a few at a time, and a burst is worth it for many. Kept in sums, not summed up:
every thread asks in each of its turns.
"""


class Together:
    """workers: of this process. most: connections that may be under way at once, of all of them.
    under_way: how many are, as each told last. opened_at: when that turn began in which the last ones did.
    """

    def __init__(self) -> None:
        self.workers = self.most = self.under_way = 0
        self.opened_at = 0.0

    def join(self, concurrency: int) -> "Part":
        return Part(self, concurrency)


class Part:
    """One worker's of it."""

    def __init__(self, whole: Together, concurrency: int) -> None:
        self._whole, self._concurrency, self._told = whole, concurrency, 0
        whole.workers += 1
        whole.most += concurrency

    def tell(self, under_way: int) -> None:
        """How many of its own are: before it gives its turn to others, who may ask."""
        self._whole.under_way += under_way - self._told
        self._told = under_way

    def leave(self) -> None:
        self.tell(0)
        self._whole.workers -= 1
        self._whole.most -= self._concurrency
