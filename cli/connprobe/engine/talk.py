"""What a message is in each protocol, and whether what came back is its answer."""

import os
from typing import Protocol

from connprobe import causes
from connprobe.engine.held import Lost
from connprobe.engine.opening import Opening
from connprobe.engine.task import Task
from connprobe.errors import ProtocolViolation
from connprobe.wire.frames import BINARY, TEXT
from connprobe.wire.http import ResponseReader
from connprobe.wire.websocket import frame


class Awaited:
    """A message under way on one connection."""

    __slots__ = ("armed", "began", "last", "reader", "received", "unsent")

    def __init__(self, began: float, unsent: bytes, *, last: bool = False) -> None:
        self.began = began
        self.unsent = unsent
        self.last = last  # after its answer the connection is not needed any more
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
        if not (reader.keep_alive or awaited.last):
            raise Lost(causes.EOF, "the server closes after this response")
        assert reader.head is not None
        return reader.head.status // 100 == 2 and not reader.excess


class WebSocketTalk:
    """A message comes back with the same payload. What else the server says meanwhile is no answer, or,
    where that is `strict`, a wrong one. Text that is not UTF-8 never gets here: the reader refuses it."""

    def __init__(self, payload: bytes, *, strict: bool = False) -> None:
        self._payload, self._otherwise = payload, False if strict else None
        try:
            payload.decode()
        except UnicodeDecodeError:
            self._opcode = BINARY
        else:
            self._opcode = TEXT

    def message(self) -> bytes:
        return frame(self._opcode, self._payload, os.urandom(4))

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        return True if data == self._payload else self._otherwise


def talk_for(task: Task, opening: Opening, payload: bytes, *, strict: bool = False) -> Talk:
    """A message is `payload`, but with HTTP, where it is the request once more."""
    if task.protocol == "ws":
        return WebSocketTalk(payload, strict=strict)
    if task.protocol == "http":
        return HttpTalk(opening.requests(1)[0][0])
    return TcpTalk(payload)
