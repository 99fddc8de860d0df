"""How a connection is opened in each protocol: what is sent first, and when it counts as established.

One `Opening` serves all connections of a process, whose threads take turns. What differs by connection is two
values: the answer to expect, and a reader where an answer came in pieces.
"""

import os
from typing import Protocol

from connprobe import causes
from connprobe.engine.bursts import MOST
from connprobe.engine.failure import Refusal
from connprobe.engine.task import Task
from connprobe.errors import ProtocolViolation
from connprobe.wire.http import ResponseReader, request_bytes
from connprobe.wire.websocket import NONCE_BYTES, accepts_for, keys_from, refusal, upgrade_headers

# Of WebSockets, made before the ramp with their requests: each would cost it 1.5 us. As many as fit into so
# many bytes, and at least those of a burst.
KEYS, MOST_BYTES = 4096, 1 << 20


class Pending(Protocol):
    """The part of a connection in flight that an opening uses."""

    expected: bytes
    reader: ResponseReader | None


class Opening(Protocol):
    answers: bool  # False: established as soon as connected and the request is sent
    stays_open: bool  # the response goes on after that
    may_be_followed: bool  # what comes behind an answer is no part of it, and can be read later
    known: tuple[bytes, bytes] | None  # what stood before and after what was expected, in a good answer
    known_bytes: int  # of such an answer; 0: there was none yet

    def requests(self, number: int) -> tuple[bytes, int]:
        """Of `number` connections, a burst at most: (what each sends first, of one length, one behind the
        other; the place of the first one's, see `expected`)."""

    def expected(self, first: int, number: int) -> list[bytes]:
        """What each of so many expects in its answer, from the place of the first on."""

    def answer(self, pending: Pending, data: bytes) -> bytes | None:
        """None: more to come. Bytes: established, and these followed the answer. Raises Refusal."""


class PlainOpening:
    """No answer holds anything of its own."""

    known: tuple[bytes, bytes] | None = None
    known_bytes = 0

    def expected(self, first: int, number: int) -> list[bytes]:
        return [b""] * number


class TcpOpening(PlainOpening):
    answers = stays_open = may_be_followed = False

    def requests(self, number: int) -> tuple[bytes, int]:
        return b"", 0

    def answer(self, pending: Pending, data: bytes) -> bytes | None:
        return data


class HttpOpening(PlainOpening):
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

    def requests(self, number: int) -> tuple[bytes, int]:
        return self._request * number, 0

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
            self.known, self.known_bytes = (data, b""), len(data)
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
        before, _, after = text.partition(marker.encode())
        offered = given.get("sec-websocket-protocol", "")
        self._offered = frozenset(name.strip() for name in offered.split(",") if name.strip())
        self.known: tuple[bytes, bytes] | None = None
        self.known_bytes = 0
        self.keys = max(MOST, min(KEYS, MOST_BYTES // len(text)))
        keys = keys_from(os.urandom(NONCE_BYTES * self.keys))
        self._requests = before + (after + before).join(keys) + after
        self._size = len(self._requests) // self.keys
        self._accepts = accepts_for(keys)
        self._next = -1

    def requests(self, number: int) -> tuple[bytes, int]:
        """`keys` at most: each key comes again after so many connections. They begin anywhere: other
        processes have the same."""
        if self._next < 0:
            self._next = int.from_bytes(os.urandom(2), "little") % self.keys
        begin = self._next if self._next + number <= self.keys else 0
        end = self._next = begin + number
        return self._requests[begin * self._size : end * self._size], begin

    def expected(self, first: int, number: int) -> list[bytes]:
        return self._accepts[first : first + number]

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
            self.known, self.known_bytes = (before, after), len(data)
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
