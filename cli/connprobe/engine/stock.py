"""Tickets for more connections, which the workers of a run share: who is done first takes the next."""

import os


class Stock:
    """A pipe of tickets, each a byte: so many connections. Whoever reads one has it.

    fd: its end for reading, whose other end is closed; -1: there is none. It is closed when it is empty.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __bool__(self) -> bool:
        """Whether there may be more."""
        return self._fd >= 0

    def take(self) -> int:
        """How many more to open; 0: there are none left."""
        ticket = os.read(self._fd, 1) if self else b""
        if not ticket:
            self.leave()
            return 0
        return ticket[0]

    def leave(self) -> None:
        """Takes no more."""
        if self:
            os.close(self._fd)
            self._fd = -1
