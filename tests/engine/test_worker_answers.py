"""Answers that are as those before, or are not, read by a worker whole."""

import errno
import os
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import sha1
from typing import Any

import pytest

from connprobe import causes, uring
from connprobe.engine.answers import Answers
from connprobe.engine.bursts import Bursts
from connprobe.engine.worker import TURN
from servers import GUID, RESET, switching, text_frame

Odd = Callable[[socket.socket, bytes], None]  # (the server's socket, the right answer)
Run = Callable[..., Any]  # see conftest.py


def response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize("more", [0, 1, 15, 16, 17, 900, 5000])
def test_answers_longer_than_the_first(run: Run, more: int) -> None:
    """The short way reads as much as the answer before had, and a little more."""
    sizes = [23, *[23 + more] * 6]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            kept = []
            for size in sizes:
                sock, _ = listener.accept()
                kept.append(sock)
                sock.recv(4096)
                sock.sendall(response(b"x" * size))
            over.wait(10)
            for sock in kept:
                sock.close()

        over = threading.Event()
        server = threading.Thread(target=serve)
        server.start()
        running = run(protocol="http", target=listener.getsockname(), share=len(sizes), concurrency=1)
        totals = running.until(lambda totals: totals.established + totals.failed == len(sizes))
        assert (totals.established, totals.failed, totals.drops) == (len(sizes), 0, {})
        over.set()
        server.join(10)
        known = running.worker.opening.known
    if more < 4000:
        assert known == (response(b"x" * (23 + more)), b"")  # it was read whole, and so is the pattern


def answer_to(request: bytes) -> bytes:
    (key,) = (line[19:] for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key: "))
    return switching(b64encode(sha1(key + GUID).digest()))


def right(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(answer)


def with_a_message(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(answer + text_frame(b"welcome"))


def with_a_close(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(answer + b"\x88\x02\x03\xe8")


def with_another_header(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(answer[:-2] + b"Server: another, with a long name\r\n\r\n")


def in_two(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(answer[:40])
    threading.Timer(0.2, sock.sendall, [answer[40:]]).start()


def to_another(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(switching(b64encode(sha1(b"another").digest())))


def by_closing(sock: socket.socket, answer: bytes) -> None:
    sock.close()


def by_a_reset(sock: socket.socket, answer: bytes) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("every", [2, 5])
@pytest.mark.parametrize(
    ("odd", "failures", "drops"),
    [
        (right, (), ()),
        (with_a_message, (), ()),
        (with_a_close, (), (causes.EOF,)),
        (with_another_header, (), ()),
        (in_two, (), ()),
        (to_another, (causes.PROTOCOL,), ()),
        (by_closing, (causes.EOF,), ()),
        (by_a_reset, (causes.RESET,), ()),
    ],
)
def test_answers_that_are_read_together(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    odd: Odd,
    failures: Sequence[str],
    drops: Sequence[str],
    every: int,
    batch: bool,
) -> None:
    """All are there before the worker looks: of 97 each `every`-th, but the first, is answered oddly.

    batch: they begin when it knows what an answer looks like, so that epoll tells of some alone.
    """
    method = "read_and_watch" if batch else "read"
    read, reads = getattr(Bursts, method), []

    def counted(bursts: Bursts, fds: Sequence[int], answer_bytes: int) -> Any:
        reads.append(len(fds))
        return read(bursts, fds, answer_bytes)

    monkeypatch.setattr(Bursts, method, counted)
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.settimeout(10)
        running, asked = begin(run, closing, listener, batch=batch)
        with TURN:
            for index, each in enumerate(asked[1:]):
                (odd if index % every == 0 else right)(*each)
        expected = -(-96 // every)
        totals = running.until(lambda totals: totals.established + totals.failed == 97)
        assert totals.failures == dict.fromkeys(failures, expected)
        totals = running.until(lambda totals: sum(totals.drops.values()) == len(drops) * expected)
        assert totals.drops == dict.fromkeys(drops, expected)
        assert totals.held == 97 - (len(failures) + len(drops)) * expected
        assert sum(reads) >= 64  # the rest came one by one
        running.tell("check")
        for sock, _ in asked if not (failures or drops) else ():
            ping = sock.recv(4096)
            sock.sendall(b"\x8a\x04" + unmasked(ping))
        if not (failures or drops):
            assert running.hear()[0] == "checked"
            assert running.until(lambda totals: True).held == 97


def begin(run: Run, closing: ExitStack, listener: socket.socket, *, batch: bool, **task: Any) -> Any:
    """(the worker, of 97 connections the server's socket and the right answer): the first has its answer."""
    values = {"protocol": "ws", "target": listener.getsockname(), "share": 97, "concurrency": 97, **task}
    running = run(**values, goal=1 if batch else 97)
    asked = []

    def accept(number: int) -> None:
        for _ in range(number):
            sock = closing.enter_context(listener.accept()[0])
            asked.append((sock, answer_to(sock.recv(4096))))

    accept(1 if batch else 97)
    right(*asked[0])
    running.until(lambda totals: totals.held == 1)  # it knows what an answer looks like
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr(Answers, "read_older", lambda *_: None)  # however long it takes to accept them
        if batch:
            running.tell("goal", 97)
            accept(96)
        if not running.until(lambda totals: totals.started == 97).ring_opened:
            pytest.skip("this kernel has no io_uring for sockets (6.11), or forbids it")
        assert not batch or len(running.worker.flights.batches.marked) == 3
    return running, asked


def test_of_a_batch_those_that_are_not_answered_are_waited_for(run: Run) -> None:
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.settimeout(10)
        running, asked = begin(run, closing, listener, batch=True)
        for each in asked[1:90:2]:
            right(*each)
        totals = running.until(lambda totals: totals.held == 46)
        assert running.until(lambda totals: totals.in_flight == 51).failed == 0
        for each in asked[2:90:2]:
            right(*each)
        totals = running.until(lambda totals: totals.held == 90)
        assert (totals.failures, totals.drops) == ({}, {})
        running.abandon()
        assert [sock.recv(16) for sock, _ in asked[90:]] == [b""] * 7  # none is forgotten at the end


def test_of_a_batch_those_that_are_never_answered_take_too_long(run: Run) -> None:
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.settimeout(10)
        running, asked = begin(run, closing, listener, batch=True, timeout_s=0.5)
        for each in asked[1:60]:
            right(*each)
        totals = running.until(lambda totals: totals.established + totals.failed == 97)
        assert (totals.held, totals.failures) == (60, {causes.TIMEOUT: 37})


def test_a_batch_that_was_opened_when_answers_were_shorter(run: Run) -> None:
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.settimeout(10)
        running, asked = begin(run, closing, listener, batch=True)
        with TURN:
            running.worker.opening.known = (b"x" * 600, b"")  # more than the ring has room for
            for each in asked[1:]:
                right(*each)
        totals = running.until(lambda totals: totals.held == 97)
        assert (totals.failures, totals.drops) == ({}, {})


@pytest.mark.parametrize("done", [0, 40, 95, 110, 191])
def test_a_batch_whose_ring_fails(run: Run, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    """Of 96 answers so many are read, then as many are watched as are left of `done`."""
    called, failed = uring._called, []

    def fail(number: int, fd: int, entries: int, *rest: Any) -> int:
        if number != uring._ENTER or entries not in (2 * 96, 2 * 96 - done):
            return called(number, fd, entries, *rest)
        if done and entries == 2 * 96:
            return called(number, fd, done, *rest)
        failed.append(entries)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(uring, "_called", fail)
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.settimeout(10)
        running, asked = begin(run, closing, listener, batch=True)
        with TURN:
            for each in asked[1:]:
                right(*each)
        totals = running.until(lambda totals: totals.held == 97)
        assert totals.failures == {}
        for sock, _ in asked:
            sock.close()
        totals = running.until(lambda totals: totals.held == 0)
        assert totals.drops == {causes.EOF: 97}
        assert failed == [2 * 96 - done]


def refuse(monkeypatch: pytest.MonkeyPatch, method: str) -> list[bool]:
    """Of every ring, from now on. Gives one True for each time that one was asked."""
    from connprobe.engine import ring

    refused = []

    def fail(*_: object) -> None:
        refused.append(True)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ring.Ring, method, fail)
    return refused


def test_a_batch_when_the_ring_has_failed_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refuse(monkeypatch, "read_and_watch")
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.settimeout(10)
        running, asked = begin(run, closing, listener, batch=True)
        with TURN:
            for each in asked[1:]:
                right(*each)
        totals = running.until(lambda totals: totals.held == 97)
        assert totals.failures == {}
        for sock, _ in asked:
            sock.close()
        totals = running.until(lambda totals: totals.held == 0)
        assert (totals.drops, refused) == ({causes.EOF: 97}, [True])


def unmasked(ping: bytes) -> bytes:
    assert ping[:2] == b"\x89\x84"
    return bytes(each ^ ping[2 + i] for i, each in enumerate(ping[6:]))


def test_the_ring_that_fails_is_done_without(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refuse(monkeypatch, "read")
    with ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.settimeout(10)
        running = run(protocol="ws", target=listener.getsockname(), share=97, concurrency=97)
        asked = []
        for _ in range(97):
            sock = closing.enter_context(listener.accept()[0])
            asked.append((sock, answer_to(sock.recv(4096))))
        right(*asked[0])
        running.until(lambda totals: totals.held == 1)
        with TURN:
            for each in asked[1:]:
                right(*each)
        totals = running.until(lambda totals: totals.held == 97)
        assert totals.failures == {}
        if not totals.ring_opened:
            pytest.skip("this kernel has no io_uring for sockets (6.11), or forbids it")
        assert refused == [True]
