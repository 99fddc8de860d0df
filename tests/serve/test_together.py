"""The embedded server with connections that come at once, and a ring that does not do all of it."""

import errno
import os
import socket
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from connprobe import uring
from connprobe.fleet.shared import SharedTable
from connprobe.serve import task as columns
from connprobe.serve.server import FRESH, OPEN, Server
from connprobe.serve.task import Task
from connprobe.serve.together import Together
from connprobe.wire.websocket import accept_for

Outcome = tuple[int | None, int | None]


def request(key: bytes, host: bytes = b"localhost") -> bytes:
    return (
        b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )


class Standing:
    """A server that does not run: its turns are taken here."""

    def __init__(self, stack: ExitStack) -> None:
        task = Task(int(socket.AF_INET), ("127.0.0.1", 0), "ws", "idle", 128, 0, None, None)
        self.table = SharedTable(1, columns.COLUMNS)
        stack.callback(os.close, self.table.fd)
        control, self._theirs = (stack.enter_context(each) for each in socket.socketpair())
        self.server = Server(task, self.table.row(0), control, None)
        stack.enter_context(self.server.listener)
        stack.callback(self.server.epoll.close)
        self.server.listen()
        self._stack = stack

    def ask(self, number: int, host: bytes = b"localhost") -> list[tuple[socket.socket, bytes]]:
        """(client, what it is to be answered) of so many, whose requests are there."""
        asked = []
        for _ in range(number):
            client = self._stack.enter_context(socket.create_connection(self.server.listener.getsockname()))
            client.settimeout(5)
            key = b64encode(os.urandom(16))
            client.sendall(request(key, host))
            asked.append((client, accept_for(key)))
        time.sleep(0.05)  # on loopback they are there by then; if not, epoll would tell
        return asked

    def close(self) -> None:
        for fd in [fd for fd, state in enumerate(self.server.state) if state]:
            os.close(fd)

    def turn(self) -> None:
        self.server._accept()


@pytest.fixture
def standing() -> Iterator[Standing]:
    try:
        with socket.socket() as some:
            Together(some.fileno()).close()
    except OSError as error:
        pytest.skip(f"io_uring: {error}: sysctl -w kernel.io_uring_disabled=0, or a kernel that has it")
    with ExitStack() as stack:
        made = Standing(stack)
        stack.callback(made.close)
        made.ask(1)
        made.turn()  # by which it knows what is asked
        yield made


def answered(asked: Sequence[tuple[socket.socket, bytes]]) -> None:
    for client, accept in asked:
        data = client.recv(4096)
        while not data.endswith(b"\r\n\r\n"):
            data += client.recv(4096)
        assert data.startswith(b"HTTP/1.1 101 ")
        assert data.count(accept) == 1
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_all_alike_are_answered_in_one_call(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Together.answer, []

    def counted(together: Together, fds: Sequence[int], answers: bytes) -> list[Outcome]:
        calls.append(len(fds))
        return real(together, fds, answers)

    monkeypatch.setattr(Together, "answer", counted)
    asked = standing.ask(23)
    standing.turn()
    assert calls == [23]
    answered(asked)
    assert (standing.server.open, standing.server.failed) == (24, 0)


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        ((None, None), 0),
        ((None, 0), 0),
        ((-errno.EAGAIN, 0), 0),
        ((-errno.EPIPE, 0), 1),
        ((None, -errno.ENOSPC), 1),
    ],
)
def test_what_the_ring_did_not_do_is_done_without_it(
    standing: Standing, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, failed: int
) -> None:
    """To the last one, whose answer the ring does not touch."""
    real = Together.answer

    def odd(together: Together, fds: Sequence[int], answers: bytes) -> list[Outcome]:
        done = real(together, fds[:-1], answers[: -(len(answers) // len(fds))])
        if outcome[1] == 0:
            standing.server.epoll.register(fds[-1], 1)
        return [*done, outcome]

    monkeypatch.setattr(Together, "answer", odd)
    asked = standing.ask(17)
    standing.turn()
    if failed:
        client, _ = asked.pop()
        assert client.recv(4096) == b""
    answered(asked)
    assert (standing.server.open, standing.server.failed) == (18 - failed, failed)


def test_a_ring_that_fails_half_way(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it answers the first time; later it is not asked any more, and all are answered."""
    called, real = uring._called, Together.answer
    answering: list[bool] = []

    def failing(number: int, fd: int, entries: int, *rest: Any) -> int:
        if not answering or number != uring._ENTER:
            return called(number, fd, entries, *rest)
        if len(answering) > 1:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        answering.append(True)
        return called(number, fd, 5, *rest)

    def answer(together: Together, fds: Sequence[int], answers: bytes) -> list[Outcome]:
        answering.append(True)
        try:
            return real(together, fds, answers)
        finally:
            answering.clear()

    monkeypatch.setattr(uring, "_called", failing)
    monkeypatch.setattr(Together, "answer", answer)
    for _ in range(2):
        asked = standing.ask(9)
        standing.turn()
        answered(asked)
    assert (standing.server.open, standing.server.failed) == (19, 0)
    assert standing.server.together is None


def test_longer_requests_are_learnt_anew(standing: Standing) -> None:
    before = standing.server.upgrades.lengths
    asked = standing.ask(9, b"localhost-with-a-longer-name")
    standing.turn()
    answered(asked)
    assert standing.server.upgrades.lengths[0] == before[0] + 19
    assert {standing.server.state[fd] for fd in range(len(standing.server.state))} <= {0, OPEN}
    assert FRESH not in standing.server.state
