"""What the embedded server says: bytes in, bytes out, in each protocol and mode. No sockets here."""

from typing import Protocol

from connprobe.errors import ProtocolViolation
from connprobe.wire.http import Request, RequestReader, response_bytes
from connprobe.wire.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameReader,
    accept_for,
    accepts_for,
    are_keys,
    close_payload,
    frame,
    is_key,
    is_upgrade,
    upgrade_answer,
)

LARGEST_MESSAGE = 1 << 20
KEY_LENGTH, ACCEPT_LENGTH = 24, 28
_KEEP_ALIVE = response_bytes(200, "OK", [("Content-Type", "text/plain")], b"ok\n")
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nf\r\ndata: welcome\n\n\r\n"
)


class Upgrades:
    """Answers an upgrade request that differs from one parsed before in its key alone.

    A load generator sends the same request 400,000 times: what was judged once need not be parsed again.
    """

    _NAME = b"Sec-WebSocket-Key: "

    def __init__(self) -> None:
        self._known = (b"", b"")  # what stands before and after the key; never in a request
        self._length = -1
        self.read_bytes = 1 << 14  # at most, of what may be such a request
        self._answer = (b"", b"")

    def answer(self, data: bytes) -> bytes | None:
        """The answer to `data` if it is such a request and nothing more, or None."""
        before, after = self._known
        if len(data) != self._length or not data.startswith(before) or not data.endswith(after):
            return None
        key = data[len(before) : len(before) + KEY_LENGTH]
        if not is_key(key):
            return None
        return self._answer[0] + accept_for(key) + self._answer[1]

    @property
    def lengths(self) -> tuple[int, int]:
        """Of such a request, and of its answer; (-1, -1): none is known."""
        return self._length, sum(map(len, self._answer)) + ACCEPT_LENGTH if self._length >= 0 else -1

    def answers(self, data: bytes) -> bytes | None:
        """The answers to such requests, one behind the other as these are; None where one is another."""
        before, after = self._known
        begin = len(before)
        keys = [data[at : at + KEY_LENGTH] for at in range(begin, len(data), self._length)]
        if data != before + (after + before).join(keys) + after or not are_keys(b"".join(keys)):
            return None
        first, last = self._answer
        return first + (last + first).join(accepts_for(keys)) + last

    def learn(self, data: bytes, answer: bytes) -> None:
        """`data`, alone and whole, was answered with this."""
        before, name, rest = data.partition(self._NAME)
        key, after = rest[:KEY_LENGTH], rest[KEY_LENGTH:]
        start, found, end = answer.partition(accept_for(key))
        if found and is_key(key) and after.startswith(b"\r\n"):
            self._known, self._answer, self._length = (before + name, after), (start, end), len(data)
            self.read_bytes = len(data) + 16


class Conversation(Protocol):
    """One connection whose state cannot be told from its descriptor alone."""

    @property
    def idle(self) -> bool:
        """Nothing is unfinished: it may be forgotten, and made anew when bytes arrive."""

    def received(self, data: bytes) -> tuple[bytes, bool]:
        """(what to send, whether to close after it)."""


class Http:
    """Requests one after another; with `websocket` each must be an upgrade, after which frames follow."""

    def __init__(self, mode: str, websocket: bool) -> None:
        self._mode, self._websocket = mode, websocket
        self._requests = RequestReader(LARGEST_MESSAGE)
        self._frames: Frames | None = None
        self.idle = False

    def received(self, data: bytes) -> tuple[bytes, bool]:
        if self._frames is not None:
            reply = self._frames.received(data)
            self.idle = self._frames.idle
            return reply
        try:
            requests = self._requests.feed(data)
        except ProtocolViolation as violation:
            body = f"{violation}\n".encode()
            return response_bytes(400, "Bad Request", [("Connection", "close")], body), True
        answer, closing = b"", False
        for request in requests:
            piece, closing = self._upgrade(request) if self._websocket else self._respond(request)
            answer += piece
            if closing:
                break
        # Of a next request nothing can have come where the only blank line ends what was received.
        alone = len(requests) == 1 and not requests[0].body and data.find(b"\r\n\r\n") == len(data) - 4
        self.idle = alone and not closing and self._frames is None
        if self._frames is not None:
            piece, closing = self._frames.received(self._requests.take_rest())
            answer += piece
            self.idle = self._frames.idle
        return answer, closing

    def _upgrade(self, request: Request) -> tuple[bytes, bool]:
        if not is_upgrade(request):
            headers = [("Upgrade", "websocket"), ("Connection", "close")]
            return response_bytes(426, "Upgrade Required", headers, b"this is a WebSocket server\n"), True
        try:
            answer = upgrade_answer(request)
        except ProtocolViolation as violation:
            headers = [("Sec-WebSocket-Version", "13"), ("Connection", "close")]
            return response_bytes(400, "Bad Request", headers, f"{violation}\n".encode()), True
        self._frames = Frames(self._mode)
        return answer + (frame(TEXT, b"welcome") if self._mode == "stream" else b""), False

    def _respond(self, request: Request) -> tuple[bytes, bool]:
        if self._mode == "stream":
            return _STREAM, False
        if not request.keep_alive:
            return response_bytes(200, "OK", [("Connection", "close")], b"ok\n"), True
        if self._mode == "echo":
            return response_bytes(
                200, "OK", [("Content-Type", "application/octet-stream")], request.body
            ), False
        return _KEEP_ALIVE, False


class Frames:
    """An upgraded connection: pings are answered, messages echoed or thrown away."""

    def __init__(self, mode: str) -> None:
        self._echo = mode == "echo"
        self._reader = FrameReader(from_client=True, keep=LARGEST_MESSAGE if self._echo else None)

    @property
    def idle(self) -> bool:
        return self._reader.at_boundary

    def received(self, data: bytes) -> tuple[bytes, bool]:
        try:
            events = self._reader.feed(data)
        except ProtocolViolation as violation:
            return frame(CLOSE, close_payload(getattr(violation, "code", 1002))), True
        answer = b""
        for event in events:
            if event.opcode == PING:
                answer += frame(PONG, event.payload)
            elif event.opcode == CLOSE:
                return answer + frame(CLOSE, event.payload[:2]), True
            elif event.opcode in (TEXT, BINARY) and self._echo:
                answer += frame(event.opcode, event.payload)
        return answer, False


class Tcp:
    def __init__(self, mode: str) -> None:
        self._echo = mode == "echo"
        self.idle = True

    def received(self, data: bytes) -> tuple[bytes, bool]:
        return (data if self._echo else b""), False
