"""The server's side of HTTP/1: requests out of bytes, by the letter.

A request that two readers could take differently is refused, never guessed at.
"""

from typing import NamedTuple

from connprobe.errors import ProtocolViolation
from connprobe.wire.chunked import ChunkedBody
from connprobe.wire.head import (
    ABSENT,
    CHUNKED,
    RequestHead,
    body_framing,
    head_end,
    is_token,
    keeps_alive,
    parse_request_head,
)


class Request(NamedTuple):
    """One request, body included. `keep_alive`: whether the client expects the connection to stay."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    version_minor: int


class RequestReader:
    """Reads the requests of one connection, pipelined or not, bodies up to `max_body` bytes.

    It stops behind a request with an Upgrade header; what follows waits in `take_rest`. (A server
    that declines the upgrade feeds that rest to a new reader.) Behind a request that ends the
    connection, everything is dropped.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_chunks",
        "_closed",
        "_head",
        "_left",
        "_max_body",
        "_scanned",
        "_upgrading",
    )

    def __init__(self, max_body: int = 1 << 20) -> None:
        self._max_body = max_body
        self._buffer = bytearray()
        self._scanned = 0
        self._upgrading = False
        self._closed = False
        self._head: RequestHead | None = None
        self._body = bytearray()
        self._left = 0
        self._chunks: ChunkedBody | None = None

    def feed(self, data: bytes) -> list[Request]:
        """The requests that `data` completes. Raises ProtocolViolation."""
        requests: list[Request] = []
        if self._closed:
            return requests
        self._buffer += data
        while not self._upgrading and not self._closed:
            head = self._head or self._read_head()
            if head is None or not self._read_body():
                break
            requests.append(self._finish(head))
        return requests

    def take_rest(self) -> bytes:
        """What has come behind a request with an Upgrade header since the last call."""
        if not self._upgrading:
            return b""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _read_head(self) -> RequestHead | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # empty lines between requests: RFC 9112, section 2.2
            del buffer[:2]
            self._scanned = 0
        if buffer and buffer != b"\r" and not is_token(chr(buffer[0])):
            raise ProtocolViolation("this is no HTTP request")
        end = head_end(buffer, self._scanned, "request")
        if not end:
            self._scanned = len(buffer)
            return None
        head = parse_request_head(bytes(buffer[:end]))
        del buffer[:end]
        self._scanned = 0
        self._frame_body(head)
        self._head = head
        return head

    def _frame_body(self, head: RequestHead) -> None:
        framing = body_framing(head.headers, head.version_minor)
        if framing >= 0:
            self._left = framing
            self._limit(framing)
        elif framing == CHUNKED and head.headers["transfer-encoding"].lower() == "chunked":
            self._chunks = ChunkedBody()
        elif framing != ABSENT:
            raise ProtocolViolation("the request has a transfer coding other than chunked")

    def _limit(self, size: int) -> None:
        if size > self._max_body:
            raise ProtocolViolation(f"request body exceeds {self._max_body} bytes")

    def _read_body(self) -> bool:
        """Whether the body is complete."""
        if self._chunks is not None:
            self._chunks.take(self._buffer, self._body)
            self._limit(len(self._body))
            return self._chunks.complete
        if self._left:
            piece = self._buffer[: self._left]
            del self._buffer[: self._left]
            self._body += piece
            self._left -= len(piece)
        return not self._left

    def _finish(self, head: RequestHead) -> Request:
        request = Request(
            head.method,
            head.path,
            head.headers,
            bytes(self._body),
            keeps_alive(head.headers, head.version_minor),
            head.version_minor,
        )
        self._head = self._chunks = None
        self._body.clear()
        self._upgrading = "upgrade" in head.headers
        if not request.keep_alive and not self._upgrading:
            self._closed = True
            self._buffer.clear()
        return request
