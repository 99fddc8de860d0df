"""Programs that answer on an inspector's port, and are none."""

import time
from collections.abc import Callable

import pytest

from connprobe.observe.runtimes.cdp import MOST_BYTES, Session
from connprobe.wire.frames import BINARY, TEXT, frame
from servers import Connection, OddServer, switching

ID = b"9b8251f5-6ff9-4a58-bd9c-d27ff1be2239"


def page(body: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


TARGETS = page(b'[{"id":"%s"}]' % ID)


def soon() -> float:
    return time.monotonic() + 20.0


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n[]",
        b"HTTP/1.0 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nX: " + b"x" * (1 << 20),
        page(b""),
        page(b"[]"),
        page(b"{}"),
        page(b"[" * 10_000),
        page(b'[{"id":"../../json/close"}]'),
        page(b'[{"id":"%s\\r\\nX: y"}]' % ID),
    ],
)
def test_no_list_of_targets(answer: bytes) -> None:
    def behave(connection: Connection) -> None:
        connection.read_head()
        connection.sock.sendall(answer)
        connection.drain()

    with OddServer(behave) as server, pytest.raises(ValueError, match="no inspector"):
        Session(server.port, soon())


def inspector(*frames: bytes) -> Callable[[Connection], None]:
    """Lists a target, agrees to WebSocket, then sends `frames` at once."""

    def behave(connection: Connection) -> None:
        if connection.index == 0:
            connection.read_head()
            connection.sock.sendall(TARGETS)
        else:
            connection.sock.sendall(switching(connection.accept_key()) + b"".join(frames))
        connection.drain()

    return behave


def test_an_answer_is_found_among_events() -> None:
    answer = b'{"id":1,"result":{"result":{"type":"string","value":"four"}}}'
    frames = (frame(TEXT, b'{"method":"Some.event"}'), frame(BINARY, b"?"), frame(TEXT, answer))
    with OddServer(inspector(*frames)) as server, Session(server.port, soon()) as session:
        assert session.evaluate("2 + 2") == "four"


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([frame(TEXT, b"[]")], "no inspector"),
        ([frame(TEXT, b'{"id":"1"}')], "no inspector"),
        ([frame(TEXT, b"[" * 60_000)], "no inspector"),
        ([frame(TEXT, b"x" * (MOST_BYTES + 1))], "no inspector"),
        ([b"\xff\xff\xff\xff"], "no inspector"),
        ([frame(TEXT, b'{"id":1,"error":{"code":-32601}}')], "refused Runtime.evaluate"),
        ([frame(TEXT, b'{"id":1}')], "refused Runtime.evaluate"),
        ([frame(TEXT, b'{"id":1,"result":{"exceptionDetails":{}}}')], "threw"),
        ([frame(TEXT, b"{}")] * 1001, "other things"),
    ],
)
def test_hostile_answers(frames: list[bytes], error: str) -> None:
    def ask(port: int) -> None:
        with Session(port, soon()) as session:
            session.evaluate("1")

    with OddServer(inspector(*frames)) as server, pytest.raises(ValueError, match=error):
        ask(server.port)


def test_a_websocket_that_is_refused() -> None:
    def behave(connection: Connection) -> None:
        connection.read_head()
        connection.sock.sendall(TARGETS if connection.index == 0 else b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with OddServer(behave) as server, pytest.raises(ValueError, match="refused: 400"):
        Session(server.port, soon())


def test_a_peer_that_dribbles_does_not_hold_us() -> None:
    def behave(connection: Connection) -> None:
        connection.read_head()
        connection.sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            connection.sock.sendall(b" ")

    with OddServer(behave) as server, pytest.raises((TimeoutError, ValueError)):
        Session(server.port, time.monotonic() + 0.3)
