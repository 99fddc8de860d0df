"""The Chrome DevTools Protocol as far as a heap needs it: one command after the other over a WebSocket.

What comes from the process is bounded and typed: it may be any program that listens there.
"""

import os
import socket
import time
from http.client import HTTPConnection, HTTPException
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta

from connprobe.errors import ProtocolViolation
from connprobe.wire.frames import TEXT, FrameReader, frame
from connprobe.wire.http import ResponseReader, request_bytes
from connprobe.wire.websocket import accept_for, key_from, refusal, upgrade_headers

MOST_BYTES: Final = 1 << 20  # of a list of targets, and of one message
MOST_MESSAGES: Final = 1000  # events that come before an answer
LOOPBACK: Final = "127.0.0.1"


class _Target(msgspec.Struct, frozen=True):
    id: Annotated[str, Meta(pattern=r"^[0-9a-fA-F-]{8,64}$")]


class _Remote(msgspec.Struct, frozen=True):
    value: str | None = None


class _Result(msgspec.Struct, frozen=True):
    result: _Remote | None = None
    exceptionDetails: msgspec.Raw | None = None


class _Message(msgspec.Struct, frozen=True):
    id: int | None = None
    result: _Result | None = None
    error: msgspec.Raw | None = None


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
        self._socket = socket.create_connection((LOOPBACK, port), timeout=_left(until))
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
            while not response.complete:
                response.feed(self._read())
            assert response.head is not None
            refused = refusal(response.head, accept_for(key))
        except ProtocolViolation as error:
            raise ValueError(str(error)) from error
        if refused is not None:
            raise ValueError(f"the inspector refused: {refused[1]}")
        self._take(response.excess)

    def _send(self, text: bytes) -> None:
        self._socket.settimeout(_left(self._until))
        self._socket.sendall(frame(TEXT, text, mask=os.urandom(4)))

    def _receive(self) -> _Message:
        while not self._waiting:
            self._take(self._read())
        return self._waiting.pop(0)

    def _take(self, data: bytes) -> None:
        try:
            events = self._reader.feed(data)
            self._waiting += [
                msgspec.json.decode(event.payload, type=_Message) for event in events if event.opcode == TEXT
            ]
        except (ProtocolViolation, msgspec.MsgspecError) as error:
            raise ValueError("this is no inspector of Node's") from error

    def _read(self) -> bytes:
        self._socket.settimeout(_left(self._until))
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the process closed the connection")
        return data


def _target(port: int, until: float) -> str:
    connection = HTTPConnection(LOOPBACK, port, timeout=_left(until))
    try:
        connection.request("GET", "/json/list")
        targets = msgspec.json.decode(connection.getresponse().read(MOST_BYTES), type=list[_Target])
    except (HTTPException, msgspec.MsgspecError) as error:
        raise ValueError("this is no inspector of Node's") from error
    finally:
        connection.close()
    if not targets:
        raise ValueError("the inspector has nothing to inspect")
    return targets[0].id


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.001)
