"""HTTP/1 without a socket: bytes in, heads and message ends out, for the engine and the server alike.

Bodies of responses are counted and dropped: a connection is held for its own sake, and a server
that answers a gigabyte must not fill the memory of what measures it.
"""

from collections.abc import Sequence

from connprobe.errors import ProtocolViolation
from connprobe.wire.chunked import ChunkedBody
from connprobe.wire.head import (
    CHUNKED,
    MAX_HEAD,
    MAX_HEADERS,
    ResponseHead,
    body_framing,
    head_end,
    is_field_value,
    is_target,
    is_token,
    keeps_alive,
    parse_response_head,
)
from connprobe.wire.requests import Request, RequestReader

__all__ = [
    "MAX_HEAD",
    "MAX_HEADERS",
    "Request",
    "RequestReader",
    "ResponseHead",
    "ResponseReader",
    "parse_response_head",
    "request_bytes",
    "response_bytes",
]

_PREFIX = b"HTTP/1."

Headers = Sequence[tuple[str, str]]


def request_bytes(method: str, path: str, headers: Headers) -> bytes:
    """A request head, ending with its blank line. Raises ValueError for what would break its grammar."""
    if not is_token(method):
        raise ValueError("the method is no HTTP token")
    if not is_target(path):
        raise ValueError("the path must be printable ASCII without spaces: percent-encode it")
    return _head_bytes(f"{method} {path} HTTP/1.1", headers)


def response_bytes(status: int, reason: str, headers: Headers, body: bytes = b"") -> bytes:
    """A response. Content-Length is added unless `headers` or the status settle where the body ends.

    Raises ValueError for what would break its grammar.
    """
    if not 100 <= status <= 999 or not is_field_value(reason):
        raise ValueError("status or reason cannot stand in a status line")
    if status >= 200 and status not in (204, 304):
        framed = ("content-length", "transfer-encoding")
        if not any(name.lower() in framed for name, _ in headers):
            headers = [*headers, ("Content-Length", str(len(body)))]
    return _head_bytes(f"HTTP/1.1 {status} {reason}", headers) + body


def _head_bytes(start: str, headers: Headers) -> bytes:
    lines = [start]
    for name, value in headers:
        if not is_token(name):
            raise ValueError("a header name is no HTTP token")
        if not is_field_value(value):
            raise ValueError(f"the value of header {name} holds a line break or NUL")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


class ResponseReader:
    """Reads the one response to a request of `method`; interim responses (1xx but 101) are skipped.

    `head`: None until it is read. `complete`: the body ended, or 101 was reached. `excess`: what
    followed the message, e.g. frames behind 101. `body_bytes`: counted, never stored. `delimited`:
    False for a body that lasts until close. `keep_alive`: once complete, whether the connection can
    carry another request (after 101 it cannot: it no longer speaks HTTP).
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_left",
        "_no_body",
        "_scanned",
        "body_bytes",
        "complete",
        "delimited",
        "excess",
        "head",
        "keep_alive",
    )

    def __init__(self, method: str = "GET") -> None:
        self.head: ResponseHead | None = None
        self.complete = False
        self.excess = b""
        self.body_bytes = 0
        self.keep_alive = False
        self.delimited = True
        self._no_body = method == "HEAD"
        self._buffer = bytearray()
        self._scanned = 0
        self._left = 0
        self._chunks: ChunkedBody | None = None

    def feed(self, data: bytes) -> None:
        """Take what was received. After `complete` it is appended to `excess`. Raises ProtocolViolation."""
        if self.complete:
            self.excess += data
            return
        self._buffer += data
        while self.head is None:
            if not self._read_head():
                return
        self._read_body()

    def eof(self) -> None:
        """The peer closed. Completes a body that lasts until then; else raises ProtocolViolation."""
        if self.complete:
            return
        if self.head is None:
            where = "inside the response head" if self._buffer else "before an answer"
            raise ProtocolViolation(f"closed {where}")
        if self._chunks is not None:
            raise ProtocolViolation("closed inside a chunked body")
        if self.delimited:
            raise ProtocolViolation(f"closed {self._left} bytes before the end of the body")
        self.complete = True

    def _read_head(self) -> bool:
        buffer = self._buffer
        if self._scanned < len(_PREFIX) and not _PREFIX.startswith(buffer[: len(_PREFIX)]):
            raise ProtocolViolation("the answer is not HTTP/1")
        end = head_end(buffer, self._scanned, "response")
        if not end:
            self._scanned = len(buffer)
            return False
        raw = bytes(buffer[:end])
        del buffer[:end]
        self._scanned = 0
        head = parse_response_head(raw)
        if head.status >= 200 or head.status == 101:
            self._frame_body(head, raw[len(_PREFIX)] - ord("0"))
            self.head = head
        return True

    def _frame_body(self, head: ResponseHead, minor: int) -> None:
        status = head.status
        if status == 101:
            return
        self.keep_alive = keeps_alive(head.headers, minor)
        if self._no_body or status in (204, 304):
            return
        framing = body_framing(head.headers, minor)
        if framing >= 0:
            self._left = framing
        elif framing == CHUNKED:
            self._chunks = ChunkedBody()
        else:
            self.delimited = self.keep_alive = False

    def _read_body(self) -> None:
        buffer = self._buffer
        if self._chunks is not None:
            self.body_bytes += self._chunks.take(buffer)
            if not self._chunks.complete:
                return
        elif self.delimited:
            count = min(self._left, len(buffer))
            del buffer[:count]
            self.body_bytes += count
            self._left -= count
            if self._left:
                return
        else:
            self.body_bytes += len(buffer)
            buffer.clear()
            return
        self.complete = True
        self.excess = bytes(buffer)
        buffer.clear()
