"""How a connection is opened in each protocol: what is sent first, and when it counts as established.

One `Opening` serves all connections of a worker. What differs by connection is two values: the answer
to expect, and a reader where an answer came in pieces.
"""

import os
from typing import Protocol

from connprobe import causes
from connprobe.engine.failure import Refusal
from connprobe.engine.task import Task
from connprobe.errors import ProtocolViolation
from connprobe.wire.http import ResponseReader, request_bytes
from connprobe.wire.websocket import NONCE_BYTES, accepts_for, keys_from, refusal, upgrade_headers

KEYS = 4096  # of WebSockets, made before the ramp: each would cost it 1.5 us


class Pending(Protocol):
    """The part of a connection in flight that an opening uses."""

    expected: bytes
    reader: ResponseReader | None


class Opening(Protocol):
    answers: bool  # False: established as soon as connected and the request is sent
    stays_open: bool  # the response goes on after that
    may_be_followed: bool  # what comes behind an answer is no part of it, and can be read later
    known: tuple[bytes, bytes] | None  # what stood before and after what was expected, in a good answer

    def requests(self, number: int) -> tuple[bytes, list[bytes]]:
        """Of `number` connections: (what each sends first, of one length, one behind the other; what each
        expects in its answer)."""

    def answer(self, pending: Pending, data: bytes) -> bytes | None:
        """None: more to come. Bytes: established, and these followed the answer. Raises Refusal."""


def answer_bytes(known: tuple[bytes, bytes], expected: bytes) -> int:
    """How long an answer is that is as one before."""
    return len(known[0]) + len(expected) + len(known[1])


class TcpOpening:
    answers = stays_open = may_be_followed = False
    known: tuple[bytes, bytes] | None = None

    def requests(self, number: int) -> tuple[bytes, list[bytes]]:
        return b"", [b""] * number

    def answer(self, pending: Pending, data: bytes) -> bytes | None:
        return data


class HttpOpening:
    """keepalive: the response is read. stream: established by its head. longpoll: by the request sent."""

    def __init__(self, task: Task) -> None:
        self.answers = task.http_mode != "longpoll"
        self._stream = self.stays_open = task.http_mode == "stream"
        self.may_be_followed = False
        accept = "text/event-stream" if self._stream else "*/*"
        given = {name.lower() for name, _ in task.headers}
        defaults = (("Host", task.host), ("User-Agent", "connprobe"), ("Accept", accept))
        headers = [pair for pair in defaults if pair[0].lower() not in given]
        self._request = request_bytes("GET", task.path, [*headers, *task.headers])
        self.known: tuple[bytes, bytes] | None = None

    def requests(self, number: int) -> tuple[bytes, list[bytes]]:
        return self._request * number, [b""] * number

    def answer(self, pending: Pending, data: bytes) -> bytes | None:
        if pending.reader is None and self.known == (data, b""):
            return b""
        first = pending.reader is None
        reader = pending.reader = pending.reader or ResponseReader()
        _feed(reader, data)
        head = reader.head
        if head is None:
            return None
        if head.status // 100 != 2:
            raise Refusal(causes.REJECTED, f"{head.status} {head.reason}".strip())
        if self._stream:
            if reader.complete:
                raise Refusal(
                    causes.PROTOCOL, "the response ended: not a stream (--http-mode keepalive holds these)"
                )
            return b""
        if not reader.delimited:
            raise Refusal(causes.PROTOCOL, "the response lasts until the server closes: no keep-alive")
        if not reader.complete:
            return None
        if not reader.keep_alive:
            raise Refusal(causes.PROTOCOL, "the server closes after its response: no keep-alive")
        if reader.excess:
            raise Refusal(causes.PROTOCOL, "bytes after the end of the response")
        if first:
            self.known = (data, b"")
        return b""


class WebSocketOpening:
    def __init__(self, task: Task) -> None:
        self.answers, self.stays_open, self.may_be_followed = True, False, True
        marker = "connprobe-key-marker-here"
        given = {name.lower(): value for name, value in task.headers}
        upgrade = [
            pair for pair in upgrade_headers(marker.encode(), task.host) if pair[0].lower() not in given
        ]
        text = request_bytes("GET", task.path, [*upgrade, *task.headers])
        self._before, _, self._after = text.partition(marker.encode())
        offered = given.get("sec-websocket-protocol", "")
        self._offered = frozenset(name.strip() for name in offered.split(",") if name.strip())
        self.known: tuple[bytes, bytes] | None = None
        self._keys = keys_from(os.urandom(NONCE_BYTES * KEYS))
        self._accepts = accepts_for(self._keys)
        self._next = -1

    def requests(self, number: int) -> tuple[bytes, list[bytes]]:
        """`KEYS` at most: each key comes again after so many connections. They begin anywhere: other workers
        have the same."""
        if self._next < 0:
            self._next = int.from_bytes(os.urandom(2), "little") % KEYS
        begin = self._next if self._next + number <= KEYS else 0
        end = self._next = begin + number
        between = self._after + self._before
        return self._before + between.join(self._keys[begin:end]) + self._after, self._accepts[begin:end]

    def answer(self, pending: Pending, data: bytes) -> bytes | None:
        # Answers of one server differ in the accept key alone: what was parsed once need not be parsed again.
        before, found, after = data.partition(pending.expected)
        if found and pending.reader is None and (before, after) == self.known:
            return b""
        first = pending.reader is None
        reader = pending.reader = pending.reader or ResponseReader()
        _feed(reader, data)
        if reader.head is None:
            return None
        refused = refusal(reader.head, pending.expected, self._offered)
        if refused is not None:
            raise Refusal(*refused)
        if first and not reader.excess and data.count(pending.expected) == 1:
            self.known = (before, after)
        return reader.excess


def _feed(reader: ResponseReader, data: bytes) -> None:
    try:
        reader.feed(data)
    except ProtocolViolation as violation:
        raise Refusal(causes.PROTOCOL, str(violation)) from violation


def opening_for(task: Task) -> Opening:
    if task.protocol == "ws":
        return WebSocketOpening(task)
    if task.protocol == "http":
        return HttpOpening(task)
    return TcpOpening()
