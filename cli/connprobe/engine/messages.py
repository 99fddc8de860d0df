"""One round of messages: each held connection carries one, and how long its answer takes is counted.

Only what is under way has an object. A connection that waits for its turn is a descriptor in a list.
"""

import os
import select
import time
from collections.abc import Iterator
from typing import Protocol

from connprobe import causes
from connprobe.engine.held import HELD, HeldSet, Lost
from connprobe.engine.opening import Opening
from connprobe.engine.tally import Tally
from connprobe.engine.task import Task
from connprobe.errors import ProtocolViolation
from connprobe.wire.frames import BINARY, TEXT
from connprobe.wire.http import ResponseReader
from connprobe.wire.websocket import frame

SENDS_PER_TURN = 128
KEPT_BYTES = 65536  # of an answer, where the message is not longer


class Awaited:
    """A message under way on one connection."""

    __slots__ = ("armed", "began", "reader", "received", "unsent")

    def __init__(self, began: float, unsent: bytes) -> None:
        self.began = began
        self.unsent = unsent
        self.armed = False  # waits for room in the send buffer
        self.received = bytearray()
        self.reader: ResponseReader | None = None


class Talk(Protocol):
    """What a message is in one protocol."""

    def message(self) -> bytes:
        """As it is sent."""

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        """Whether what came is the answer: None: more is to come; False: it is another one."""


class TcpTalk:
    """The same bytes come back."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def message(self) -> bytes:
        return self._payload

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        awaited.received += data[: len(self._payload) + 1 - len(awaited.received)]
        if len(awaited.received) < len(self._payload):
            return None
        return awaited.received == self._payload


class HttpTalk:
    """The request again, and its response."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    def message(self) -> bytes:
        return self._request

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        reader = awaited.reader = awaited.reader or ResponseReader()
        try:
            reader.feed(data)
        except ProtocolViolation as violation:
            raise Lost(causes.PROTOCOL, str(violation)) from violation
        if not reader.complete:
            return None
        if not reader.keep_alive:
            raise Lost(causes.EOF, "the server closes after this response")
        assert reader.head is not None
        return reader.head.status // 100 == 2 and not reader.excess


class WebSocketTalk:
    """A message comes back with the same payload. What else the server says meanwhile is no answer."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        try:
            payload.decode()
        except UnicodeDecodeError:
            self._opcode = BINARY
        else:
            self._opcode = TEXT

    def message(self) -> bytes:
        return frame(self._opcode, self._payload, os.urandom(4))

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        return True if data == self._payload else None


def talk_for(task: Task, opening: Opening, payload: bytes) -> Talk:
    """A message is `payload`, but with HTTP, where it is the request once more."""
    if task.protocol == "ws":
        return WebSocketTalk(payload)
    if task.protocol == "http":
        return HttpTalk(opening.requests(1)[0][0])
    return TcpTalk(payload)


class Messages:
    """A message on each connection that `held` holds now.

    talk: None: the server sends by itself, and whatever comes is its message. most: under way at once.
    tally: told what was sent, and what came of it.
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
    ) -> None:
        self.keep = KEPT_BYTES
        self._held, self._epoll, self._talk = held, epoll, talk
        self._most, self._timeout_s, self._tally = most, timeout_s, tally
        self._waiting: dict[int, Awaited] = {}
        waiting = [fd for fd, state in enumerate(held.state) if state >= HELD]
        self._to_send: Iterator[int] = iter(waiting if talk is not None else ())
        self._more = talk is not None
        if talk is None:
            now = time.monotonic()
            self._waiting = {fd: Awaited(now, b"") for fd in waiting}
            tally.messages_sent += len(waiting)
        else:
            self.keep = max(KEPT_BYTES, 2 * len(talk.message()))

    @property
    def over(self) -> bool:
        return not self._more and not self._waiting

    @property
    def ready(self) -> bool:
        """More may be sent at once."""
        return self._more and len(self._waiting) < self._most

    def tick(self, now: float) -> list[tuple[int, Lost]]:
        """Gives up those that have waited too long: they were sent, and never answered.

        Returns those that were sent in part: on such a connection nothing else can be said any more.
        """
        lost = []
        while self._waiting:
            fd, oldest = next(iter(self._waiting.items()))
            if oldest.began > now - self._timeout_s:
                break
            if oldest.unsent:
                lost.append((fd, Lost(causes.TIMEOUT, "a message was not taken")))
            self._end(fd)
        return lost

    def send_some(self) -> list[tuple[int, Lost]]:
        """Sends as many as may be under way. Returns the connections that were lost in it."""
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
            self._waiting[fd] = Awaited(time.monotonic(), talk.message())
            try:
                self._flush(fd, self._waiting[fd])
            except Lost as end:
                lost.append((fd, end))
        return lost

    def unsent(self, fd: int) -> bool:
        """A message is under way in part: whatever else is written would stand in its midst."""
        awaited = self._waiting.get(fd)
        return awaited is not None and bool(awaited.unsent)

    def flush(self, fd: int) -> None:
        """The rest of a long message, when there may be room for it. Raises Lost."""
        if self.unsent(fd):
            self._flush(fd, self._waiting[fd])

    def _flush(self, fd: int, awaited: Awaited) -> None:
        awaited.unsent = awaited.unsent[self._held.send(fd, awaited.unsent) :]
        self._arm(fd, awaited, bool(awaited.unsent))

    def _arm(self, fd: int, awaited: Awaited, armed: bool) -> None:
        if armed != awaited.armed:
            awaited.armed = armed
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT if armed else select.EPOLLIN)

    def came(self, fd: int, data: bytes) -> bool:
        """Bytes that arrived (of a WebSocket: a whole message). False: they are none of ours. Raises Lost."""
        awaited = self._waiting.get(fd)
        if awaited is None:
            return False
        answer = True if self._talk is None else self._talk.answered(awaited, data)
        if answer is not None:
            if answer:
                self._tally.message(int((time.monotonic() - awaited.began) * 1e6))
            else:
                self._tally.messages_wrong += 1
            self._end(fd)
        return self._talk is not None

    def lost(self, fd: int) -> None:
        self._waiting.pop(fd, None)

    def _end(self, fd: int) -> None:
        self._arm(fd, self._waiting.pop(fd), False)
