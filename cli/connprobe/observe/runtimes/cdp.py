"""The Chrome DevTools Protocol as far as a heap needs it: one command after the other over a WebSocket.

What comes from the process is bounded and typed: it may be any program that listens there.
"""

import os
import socket
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta

from connprobe.errors import ProtocolViolation
from connprobe.observe.runtimes.interface import left
from connprobe.wire.frames import TEXT, FrameReader, frame
from connprobe.wire.head import body_framing, head_end, parse_response_head
from connprobe.wire.http import ResponseReader, request_bytes
from connprobe.wire.websocket import accept_for, key_from, refusal, upgrade_headers

MOST_BYTES: Final = 1 << 20  # of a list of targets, and of one message
MOST_MESSAGES: Final = 1000  # events that come before an answer
LOOPBACK: Final = "127.0.0.1"
NONE: Final = "no inspector of Node's answers"


class _Target(msgspec.Struct, frozen=True):
    id: Annotated[str, Meta(pattern=r"^[0-9a-fA-F-]{8,64}$")]


class _Remote(msgspec.Struct, frozen=True):
    value: str | None = None


class _Result(msgspec.Struct, frozen=True):
    result: _Remote | None = None
    exceptionDetails: dict[str, Any] | None = None


class _Message(msgspec.Struct, frozen=True):
    id: int | None = None
    result: _Result | None = None
    error: dict[str, Any] | None = None


class Session:
    """A conversation with the Node process whose inspector listens on a port of 127.0.0.1.

    All of it ends at `until`, of time.monotonic(). Raises OSError, or ValueError for no such inspector.
    """

    def __init__(self, port: int, until: float) -> None:
        self._until = until
        self._number = 0
        self._reader = FrameReader(from_client=False, keep=MOST_BYTES)
        self._waiting: list[_Message] = []
        target = _target(port, until)
        self._socket = socket.create_connection((LOOPBACK, port), timeout=left(until))
        try:
            self._upgrade(f"/{target}", f"{LOOPBACK}:{port}")
        except BaseException:
            self._socket.close()
            raise

    def evaluate(self, expression: str) -> str | None:
        """What a JavaScript expression gives, where that is a string. `require` is there."""
        answer = self.call(
            "Runtime.evaluate",
            {"expression": expression, "includeCommandLineAPI": True, "returnByValue": True, "silent": True},
        )
        if answer.exceptionDetails is not None:
            raise ValueError("the process threw an error")
        return None if answer.result is None else answer.result.value

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> _Result:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters or {}}
        self._send(msgspec.json.encode(asked))
        for _ in range(MOST_MESSAGES):
            message = self._receive()
            if message.id == self._number:
                if message.error is not None or message.result is None:
                    raise ValueError(f"the process refused {method}")
                return message.result
        raise ValueError("the process sent other things than an answer")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _upgrade(self, path: str, host: str) -> None:
        key = key_from(os.urandom(16))
        self._socket.sendall(request_bytes("GET", path, upgrade_headers(key, host)))
        response = ResponseReader()
        try:
            while response.head is None:
                response.feed(_receive(self._socket, self._until))
            refused = refusal(response.head, accept_for(key))
        except ProtocolViolation as error:
            raise ValueError(str(error)) from error
        if refused is not None:
            raise ValueError(f"the inspector refused: {refused[1]}")
        self._take(response.excess)

    def _send(self, text: bytes) -> None:
        self._socket.settimeout(left(self._until))
        self._socket.sendall(frame(TEXT, text, mask=os.urandom(4)))

    def _receive(self) -> _Message:
        while not self._waiting:
            self._take(_receive(self._socket, self._until))
        return self._waiting.pop(0)

    def _take(self, data: bytes) -> None:
        try:
            events = self._reader.feed(data)
            self._waiting += [
                msgspec.json.decode(event.payload, type=_Message) for event in events if event.opcode == TEXT
            ]
        except (ProtocolViolation, msgspec.MsgspecError) as error:
            raise ValueError(NONE) from error


def _target(port: int, until: float) -> str:
    """The id of what there is to inspect, from GET /json/list."""
    with socket.create_connection((LOOPBACK, port), timeout=left(until)) as connection:
        connection.sendall(request_bytes("GET", "/json/list", [("Host", f"{LOOPBACK}:{port}")]))
        received = bytearray()
        end = size = 0
        try:
            while not end or len(received) < end + size:
                received += _receive(connection, until)
                if not end:
                    end = head_end(received, 0, "response")
                    size = _length(bytes(received[:end])) if end else 0
            targets = msgspec.json.decode(received[end : end + size], type=list[_Target])
        except (ProtocolViolation, msgspec.MsgspecError) as error:
            raise ValueError(NONE) from error
    if not targets:
        raise ValueError(NONE)
    return targets[0].id


def _length(head: bytes) -> int:
    size = body_framing(parse_response_head(head).headers, 1)
    if not 0 <= size <= MOST_BYTES:
        raise ValueError(NONE)
    return size


def _receive(connection: socket.socket, until: float) -> bytes:
    connection.settimeout(left(until))
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionResetError("the process closed the connection")
    return data
