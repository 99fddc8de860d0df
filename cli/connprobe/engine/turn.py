"""Whose turn it is among workers that are threads of one process."""

from _thread import allocate_lock
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Turn:
    """A lock that is handed over in the order in which it was asked for.

    A plain one goes to whoever asks at the right moment: a thread that always has work would keep it.
    """

    def __init__(self) -> None:
        self._queue: deque[Any] = deque()  # of locks, each held until it is its owner's turn
        self._taken = False
        self._mutex = allocate_lock()

    def take(self) -> None:
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            mine = allocate_lock()
            mine.acquire()
            self._queue.append(mine)
        mine.acquire()

    def give(self) -> None:
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False

    @contextmanager
    def given(self) -> Iterator[None]:
        """Others may work meanwhile: for system calls that take long."""
        self.give()
        try:
            yield
        finally:
            self.take()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give()
