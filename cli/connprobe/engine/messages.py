"""Messages on held connections: how long their answers take is counted.

Only what is under way has an object. A connection that waits for its turn is a descriptor in a list.
"""

import select
import time
from collections.abc import Iterator

from connprobe import causes
from connprobe.engine.held import HELD, HeldSet, Lost
from connprobe.engine.talk import Awaited, Talk
from connprobe.engine.tally import Tally

SENDS_PER_TURN = 128
KEPT_BYTES = 65536  # of an answer, where the message is not longer


class Exchange:
    """What is under way, at most one on each connection, and what comes of it.

    talk: None: the server sends by itself, and whatever comes is its message. tally: told what was sent,
    and what came of it.
    """

    def __init__(
        self, held: HeldSet, epoll: select.epoll, talk: Talk | None, *, timeout_s: float, tally: Tally
    ) -> None:
        self.keep = KEPT_BYTES if talk is None else max(KEPT_BYTES, 2 * len(talk.message()))
        self._held, self._epoll, self._talk = held, epoll, talk
        self._timeout_s, self._tally = timeout_s, tally
        self._waiting: dict[int, Awaited] = {}  # in the order in which they began

    @property
    def over(self) -> bool:
        """Nothing is under way any more, and nothing will be."""
        return False

    @property
    def ready(self) -> bool:
        """More may be sent at once."""
        return False

    def send_some(self) -> list[tuple[int, Lost]]:
        """Sends as many as may be under way. Returns the connections that were lost in it."""
        return []

    def tick(self, now: float) -> list[tuple[int, Lost]]:
        """Gives up what has waited too long. Returns the connections that are lost by it."""
        raise NotImplementedError

    def came(self, fd: int, data: bytes) -> bool:
        """Bytes that arrived (of a WebSocket: a whole message). False: they are none of ours. Raises Lost."""
        raise NotImplementedError

    def known(self, fd: int, data: bytes) -> bool:
        """Of a WebSocket: what was awaited came, to the byte. False: it has to be read. Raises Lost."""
        return False

    def close_came(self, fd: int) -> None:
        """The server's close frame. Raises Lost where it answers ours: none is to be sent back."""

    def unsent(self, fd: int) -> bool:
        """A message is under way in part: whatever else is written would stand in its midst."""
        awaited = self._waiting.get(fd)
        return awaited is not None and bool(awaited.unsent)

    def flush(self, fd: int) -> None:
        """The rest of a long message, when there may be room for it. Raises Lost."""
        if self.unsent(fd):
            self._flush(fd, self._waiting[fd])

    def lost(self, fd: int) -> None:
        self._waiting.pop(fd, None)

    def _send(self, fd: int, awaited: Awaited) -> None:
        """Raises Lost."""
        self._waiting[fd] = awaited
        self._flush(fd, awaited)

    def _flush(self, fd: int, awaited: Awaited) -> None:
        awaited.unsent = awaited.unsent[self._held.send(fd, awaited.unsent) :]
        self._arm(fd, awaited, bool(awaited.unsent))

    def _arm(self, fd: int, awaited: Awaited, armed: bool) -> None:
        if armed != awaited.armed:
            awaited.armed = armed
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if armed else select.EPOLLIN)

    def _end(self, fd: int) -> None:
        self._arm(fd, self._waiting.pop(fd), False)

    def _overdue(self, now: float) -> Iterator[tuple[int, Awaited]]:
        """The oldest, as long as it is too old; the caller ends each."""
        while self._waiting:
            fd, oldest = next(iter(self._waiting.items()))
            if oldest.began > now - self._timeout_s:
                return
            yield fd, oldest


class Messages(Exchange):
    """One round: a message on each connection that `held` holds now. most: under way at once.

    An answer that was given up may still come, and would pass for that of the next round. Answers come in the
    order of their messages, so as many are dropped as are owed; who never gives one is not credited with the
    next. What a server sends by itself has no round: there nothing is owed.

    earlier: the round before, where it had not all its answers.
    """

    def __init__(
        self,
        held: HeldSet,
        epoll: select.epoll,
        talk: Talk | None,
        *,
        most: int,
        timeout_s: float,
        tally: Tally,
        earlier: "Messages | None" = None,
    ) -> None:
        super().__init__(held, epoll, talk, timeout_s=timeout_s, tally=tally)
        self.owed: dict[int, list[tuple[Talk, Awaited]]] = {} if earlier is None else earlier.owed
        self.told = False
        self._most = most
        waiting = [fd for fd, state in enumerate(held.state) if state >= HELD]
        self._to_send: Iterator[int] = iter(waiting if talk is not None else ())
        self._more = talk is not None
        if talk is None:
            now = time.monotonic()
            self._waiting = {fd: Awaited(now, b"") for fd in waiting}
            tally.messages_sent += len(waiting)

    @property
    def over(self) -> bool:
        return not self._more and not self._waiting

    @property
    def ready(self) -> bool:
        return self._more and len(self._waiting) < self._most

    def tick(self, now: float) -> list[tuple[int, Lost]]:
        """Those that have waited too long were sent, and never answered. Where one was sent in part, nothing
        else can be said on its connection any more."""
        lost = []
        for fd, oldest in self._overdue(now):
            if oldest.unsent:
                lost.append((fd, Lost(causes.TIMEOUT, "a message was not taken")))
            elif self._talk is not None:
                self.owed.setdefault(fd, []).append((self._talk, oldest))
            self._end(fd)
        return lost

    def send_some(self) -> list[tuple[int, Lost]]:
        lost = []
        talk = self._talk
        for _ in range(min(SENDS_PER_TURN, self._most - len(self._waiting)) if talk is not None else 0):
            fd = next(self._to_send, -1)
            if fd < 0:
                self._more = False
                break
            if talk is None or self._held.state[fd] < HELD:
                continue
            self._tally.messages_sent += 1
            try:
                message = talk.message()
                self._send(fd, Awaited(time.monotonic(), message))
            except Lost as end:
                lost.append((fd, end))
        return lost

    def lost(self, fd: int) -> None:
        super().lost(fd)
        self.owed.pop(fd, None)

    def came(self, fd: int, data: bytes) -> bool:
        late = fd in self.owed
        rest = self._drop_late(fd, data) if late else data
        awaited = self._waiting.get(fd)
        if awaited is None or rest is None:
            return late
        answer = True if self._talk is None else self._talk.answered(awaited, rest)
        if answer is not None:
            if answer:
                self._tally.message(int((time.monotonic() - awaited.began) * 1e6))
            else:
                self._tally.messages_wrong += 1
            self._end(fd)
        return self._talk is not None

    def _drop_late(self, fd: int, data: bytes) -> bytes | None:
        """What came beside answers that are owed. Raises Lost."""
        owed, whole = self.owed[fd], True
        rest: bytes | None = data
        while whole and owed and rest is not None:
            talk, awaited = owed[0]
            whole, rest = talk.late(awaited, rest)
            if whole:
                owed.pop(0)
        if not owed:
            del self.owed[fd]
        return rest
