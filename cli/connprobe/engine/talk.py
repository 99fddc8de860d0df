"""What a message is in each protocol, and whether what came back is its answer."""

import os
from collections.abc import Iterator
from typing import Protocol

from connprobe import causes
from connprobe.engine.held import Lost
from connprobe.engine.opening import Opening
from connprobe.engine.task import Task
from connprobe.errors import ProtocolViolation
from connprobe.wire.frames import BINARY, TEXT
from connprobe.wire.http import ResponseReader
from connprobe.wire.websocket import frame

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Awaited:
    """A message under way on one connection: the `number`-th of it."""

    __slots__ = ("armed", "began", "expected", "last", "number", "reader", "received", "unsent")

    def __init__(
        self,
        began: float,
        unsent: bytes,
        number: int = 0,
        *,
        last: bool = False,
        expected: bytes | None = None,
    ) -> None:
        self.began = began
        self.expected = expected  # the answer as most servers send it, framed; None: it has to be judged
        self.number = number
        self.unsent = unsent
        self.last = last  # after its answer the connection is not needed any more
        self.armed = False  # waits for room in the send buffer
        self.received = bytearray()
        self.reader: ResponseReader | None = None


class Talk(Protocol):
    """What a message is in one protocol."""

    def message(self, number: int = 0) -> bytes:
        """As it is sent, the `number`-th on its connection."""

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        """Whether what came is the answer: None: more is to come; False: it is another one."""

    def late(self, awaited: Awaited, data: bytes) -> tuple[bool, bytes | None]:
        """Whether an answer that nobody waits for any more is whole by now, and what else came, if any."""


class Echo:
    """What is said is to be said back.

    varied: the payload is text of our own making, and each message of a connection differs from the one
    before: an echo that came twice is not taken for that of the next.
    """

    def __init__(self, payload: bytes, *, varied: bool = False) -> None:
        self._payload, self._varied = payload, varied

    def said(self, number: int) -> bytes:
        return numbered(self._payload, number) if self._varied else self._payload


class TcpTalk(Echo):
    """The same bytes come back."""

    def message(self, number: int = 0) -> bytes:
        return self.said(number)

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        awaited.received += data[: len(self._payload) + 1 - len(awaited.received)]
        if len(awaited.received) < len(self._payload):
            return None
        return awaited.received == self.said(awaited.number)

    def late(self, awaited: Awaited, data: bytes) -> tuple[bool, bytes | None]:
        end = len(self._payload) - len(awaited.received)
        awaited.received += data[:end]
        return len(data) >= end, data[end:] or None


class HttpTalk:
    """The request again, and its response. Where that is `strict`, a status that is not 2xx ends it."""

    def __init__(self, request: bytes, *, strict: bool = False) -> None:
        self._request, self._strict = request, strict

    def message(self, number: int = 0) -> bytes:
        return self._request

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        reader = self._read(awaited, data)
        if not reader.complete:
            return None
        assert reader.head is not None
        good = reader.head.status // 100 == 2
        if self._strict and not good:
            raise Lost(causes.REJECTED, f"{reader.head.status} {reader.head.reason}".strip())
        if not (reader.keep_alive or awaited.last):
            raise Lost(causes.EOF, "the server closes after this response")
        return good and not reader.excess

    def late(self, awaited: Awaited, data: bytes) -> tuple[bool, bytes | None]:
        reader = self._read(awaited, data)
        if reader.complete and not reader.keep_alive:
            raise Lost(causes.EOF, "the server closes after this response")
        return reader.complete, reader.excess or None

    def _read(self, awaited: Awaited, data: bytes) -> ResponseReader:
        reader = awaited.reader = awaited.reader or ResponseReader()
        try:
            reader.feed(data)
        except ProtocolViolation as violation:
            raise Lost(causes.PROTOCOL, str(violation)) from violation
        return reader


class WebSocketTalk(Echo):
    """A message comes back with the same payload. What else the server says meanwhile is no answer, or,
    where that is `strict`, a wrong one. Text that is not UTF-8 never gets here: the reader refuses it."""

    def __init__(self, payload: bytes, *, varied: bool = False, strict: bool = False) -> None:
        super().__init__(payload, varied=varied)
        self._otherwise = False if strict else None
        self._masks = masks()
        try:
            payload.decode()
        except UnicodeDecodeError:
            self._opcode = BINARY
        else:
            self._opcode = TEXT
        self._echo = frame(self._opcode, payload)

    def message(self, number: int = 0) -> bytes:
        return frame(self._opcode, self.said(number), next(self._masks))

    def expected(self, number: int) -> bytes:
        """Its echo in one frame."""
        return frame(self._opcode, self.said(number)) if self._varied else self._echo

    def answered(self, awaited: Awaited, data: bytes) -> bool | None:
        return True if data == self.said(awaited.number) else self._otherwise

    def late(self, awaited: Awaited, data: bytes) -> tuple[bool, bytes | None]:
        return (True, None) if data == self.said(awaited.number) else (False, data)


def masks() -> Iterator[bytes]:
    """Random bytes, four at a time (RFC 6455, section 5.3). Not to be begun before a fork."""
    while True:
        pool = os.urandom(4096)
        yield from (pool[at : at + 4] for at in range(0, len(pool), 4))


def numbered(text: bytes, number: int) -> bytes:
    """Of the same length, and another one than for the numbers before. text: begins with two ASCII characters
    or is one."""
    high, low = divmod(number % len(_DIGITS) ** 2, len(_DIGITS))
    return bytes((_DIGITS[high], _DIGITS[low]))[-len(text) :] + text[2:]


def talk_for(
    task: Task, opening: Opening, payload: bytes, *, varied: bool = False, strict: bool = False
) -> Talk:
    """A message is `payload`, but with HTTP, where it is the request once more."""
    if task.protocol == "ws":
        return WebSocketTalk(payload, varied=varied, strict=strict)
    if task.protocol == "http":
        return HttpTalk(opening.requests(1)[0], strict=strict)
    return TcpTalk(payload, varied=varied)
