"""Rounds of messages, between a worker and servers that answer well, wrongly or never."""

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from connprobe import causes
from connprobe.engine import counters
from servers import Connection, OddServer

Run = Callable[..., Any]  # see conftest.py


def echo(connection: Connection) -> None:
    while data := connection.sock.recv(65536):
        connection.sock.sendall(data)


def counted(worker: Any) -> tuple[int, int, int]:
    totals = counters.read_totals(worker.table, {})
    return totals.messages_sent, totals.messages_answered, totals.messages_wrong


def test_every_connection_gets_its_message_back(run: Run) -> None:
    with OddServer(echo) as server:
        worker = run(share=53, target=("127.0.0.1", server.port), concurrency=7)
        worker.until(lambda totals: totals.held == 53)
        for once in (1, 2):
            worker.tell("message", b"gr\xc3\xbc\xc3\x9fe")
            assert worker.hear() == ("messaged", {}, {})
            assert counted(worker) == (once * 53, once * 53, 0)
            assert sum(counters.read_messages(worker.table)) == once * 53
        totals = counters.read_totals(worker.table, {})
        assert 0 < totals.message_max_us <= totals.message_sum_us
        assert totals.held == 53


def test_messages_that_no_buffer_holds(run: Run, listener: socket.socket) -> None:
    worker = run(share=1, target=listener.getsockname(), timeout_s=0.05)
    silent, _ = listener.accept()
    worker.until(lambda totals: totals.held == 1)
    drops: dict[str, dict[str, int]] = {}
    while not drops:
        worker.tell("message", b"x" * 60_000)
        _, _, drops = worker.hear()
    assert drops == {causes.TIMEOUT: {"a message was not taken": 1}}
    assert counters.read_totals(worker.table, {}).messages_answered == 0
    silent.close()


def test_the_rest_of_a_message_follows_when_there_is_room(run: Run, listener: socket.socket) -> None:
    worker = run(share=1, target=listener.getsockname(), timeout_s=30)
    accepted, _ = listener.accept()
    held = worker.worker.held
    worker.until(lambda totals: totals.held == 1)
    (fd,) = (fd for fd, state in enumerate(held.state) if state)
    with accepted:
        filled = 0
        try:
            while True:
                filled += os.write(fd, b"y" * 60_000)
        except BlockingIOError:
            pass
        worker.tell("message", b"x" * 60_000)
        worker.until(lambda totals: totals.messages_sent == 1)
        assert not held._write(fd, b"zz")  # a pong in the midst of it would be read as a part of it
        left = filled + 60_000
        while left:
            data = accepted.recv(1 << 16)
            left -= len(data)
        assert data[-1:] == b"x"
        accepted.sendall(b"x" * 60_000)
        assert worker.hear() == ("messaged", {}, {})
        assert counted(worker) == (1, 1, 0)


def test_answers_that_are_none(run: Run) -> None:
    """Of four connections one is echoed, one told something else, one not answered, one closed."""

    def each(connection: Connection) -> None:
        data = connection.sock.recv(100)
        if connection.index == 0:
            connection.sock.sendall(data)
        elif connection.index == 1:
            connection.sock.sendall(b"X" * len(data))
        if connection.index != 3:
            connection.drain()

    with OddServer(each) as server:
        worker = run(share=4, target=("127.0.0.1", server.port), timeout_s=0.5)
        worker.until(lambda totals: totals.held == 4)
        worker.tell("message", b"hello")
        kind, _, drops = worker.hear()
        assert (kind, drops) == ("messaged", {causes.EOF: {"closed by the server": 1}})
        assert counted(worker) == (4, 1, 1)
        assert worker.until(lambda totals: totals.held == 3).dropped == 1


def websocket_echo(connection: Connection) -> None:
    """Echoes one short message, behind a ping and another message, in two fragments and byte by byte."""
    connection.upgrade()
    data = b""
    while len(data) < 6 or len(data) < 6 + (data[1] & 0x7F):
        data += connection.sock.recv(4096)
    text = bytes(byte ^ data[2 + i % 4] for i, byte in enumerate(data[6:]))
    said = b"\x89\x01p" + b"\x81\x05other"
    said += bytes((data[0] & 0x0F, 2)) + text[:2] + bytes((0x80, len(text) - 2)) + text[2:]
    for byte in said:
        connection.sock.sendall(bytes((byte,)))
    connection.drain()


def test_websocket_messages(run: Run) -> None:
    with OddServer(websocket_echo) as server:
        worker = run(share=5, target=("127.0.0.1", server.port), protocol="ws")
        worker.until(lambda totals: totals.held == 5)
        worker.tell("message", "Übung".encode())
        assert worker.hear() == ("messaged", {}, {})
        assert counted(worker) == (5, 5, 0)


@pytest.mark.parametrize("status", [200, 500])
def test_http_requests_once_more(run: Run, status: int) -> None:
    def serve(connection: Connection) -> None:
        first = True
        while True:
            connection.read_head()
            code = 200 if first else status
            connection.sock.sendall(b"HTTP/1.1 %d Fine\r\nContent-Length: 3\r\n\r\nok\n" % code)
            first = False

    with OddServer(serve) as server:
        worker = run(share=5, target=("127.0.0.1", server.port), protocol="http")
        worker.until(lambda totals: totals.held == 5)
        worker.tell("message", b"")
        assert worker.hear()[0] == "messaged"
        assert counted(worker) == ((5, 5, 0) if status == 200 else (5, 0, 5))


def test_a_server_that_sends_by_itself(run: Run, listener: socket.socket) -> None:
    worker = run(share=3, target=listener.getsockname(), timeout_s=30)
    accepted = [listener.accept()[0] for _ in range(3)]
    worker.until(lambda totals: totals.held == 3)
    worker.tell("message", None)
    worker.until(lambda totals: totals.messages_sent == 3)
    for each in accepted:
        each.sendall(b"news")
    assert worker.hear() == ("messaged", {}, {})
    assert counted(worker) == (3, 3, 0)
    for each in accepted:
        each.close()


def test_a_goal_is_raised_in_steps(run: Run, listener: socket.socket) -> None:
    worker = run(share=9, goal=2, target=listener.getsockname())
    accepted: list[socket.socket] = []
    for goal in (2, 5, 9):
        worker.tell("goal", goal)
        accepted += [listener.accept()[0] for _ in range(goal - len(accepted))]
        totals = worker.until(lambda totals, goal=goal: totals.held == goal)
        assert (totals.started, totals.in_flight) == (goal, 0)
    for each in accepted:
        each.close()


def test_a_goal_may_be_reached_slowly(run: Run, listener: socket.socket) -> None:
    worker = run(share=9, goal=2, target=listener.getsockname())
    worker.until(lambda totals: totals.held == 2)
    worker.tell("goal", 5, 3600.0, 0.0)
    worker.until(lambda totals: totals.held == 3)
    before = worker.counted(counters.TICKED_NS)
    totals = worker.until(lambda totals: worker.counted(counters.TICKED_NS) > before)
    assert totals.started == 3
    worker.tell("goal", 9)
    worker.until(lambda totals: totals.held == 9)


def websocket_message(connection: Connection) -> bytes:
    """The answer to the next message of a client, at most 125 bytes long: an echo."""
    head = connection.read_exactly(6)
    masked = connection.read_exactly(head[1] & 0x7F)
    return bytes((head[0], len(masked))) + bytes(byte ^ head[2 + i % 4] for i, byte in enumerate(masked))


def answer_to_next(connection: Connection, protocol: str) -> bytes:
    if protocol == "ws":
        return websocket_message(connection)
    if protocol == "http":
        connection.read_head()
        return b"HTTP/1.1 200 Fine\r\nContent-Length: 3\r\n\r\nok\n"
    return connection.read_exactly(5)


@pytest.mark.parametrize("protocol", ["tcp", "ws", "http"])
def test_an_answer_that_comes_a_round_late_is_not_that_of_the_next(run: Run, protocol: str) -> None:
    """Of four connections one answers between the rounds and then in time, one both in the second round, one
    the first alone in the second round, and one in time."""

    def late(connection: Connection) -> None:
        if protocol == "ws":
            connection.upgrade()
        elif protocol == "http":
            connection.sock.sendall(answer_to_next(connection, protocol))
        first = answer_to_next(connection, protocol)
        if connection.index in (0, 3):
            if connection.index == 0:
                connection.server.gate.wait(10)
            connection.sock.sendall(first)
            connection.sock.sendall(answer_to_next(connection, protocol))
        else:
            second = answer_to_next(connection, protocol)
            connection.sock.sendall(first + second if connection.index == 1 else first)
        connection.drain()

    with OddServer(late) as server:
        worker = run(share=4, target=("127.0.0.1", server.port), protocol=protocol, timeout_s=0.5)
        worker.until(lambda totals: totals.held == 4)
        worker.tell("message", b"hello")
        assert worker.hear() == ("messaged", {}, {})
        assert counted(worker) == (4, 1, 0)
        before = worker.counted(counters.BYTES_READ)
        server.gate.set()
        worker.until(lambda totals: totals.bytes_read > before)
        worker.tell("message", b"hello")
        assert worker.hear() == ("messaged", {}, {})
        assert counted(worker) == (8, 4, 0)
        assert counters.read_totals(worker.table, {}).held == 4
