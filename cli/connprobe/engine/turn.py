"""Whose turn it is among workers that are threads of one process."""

from _thread import allocate_lock
from collections import deque
from typing import Any


class Turn:
    """A lock that is handed over in the order in which it was asked for.

    A plain one goes to whoever asks at the right moment: a thread that always has work would keep it.
    given: a context in which others may work, for system calls that take long.
    """

    def __init__(self) -> None:
        self.given = _Given(self)
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

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give()


class _Given:
    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __enter__(self) -> None:
        self._turn.give()

    def __exit__(self, *_: object) -> None:
        self._turn.take()
