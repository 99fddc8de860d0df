"""Connections that come, say their messages and go: servers good, slow, wrong and gone."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from connprobe import causes
from connprobe.engine import counters
from connprobe.engine.task import VisitsTask
from servers import OK, Connection, OddServer, read_frame, text_frame

Run = Callable[..., Any]  # see conftest.py
TEXT = "Grüße, 世界 🌍".encode()


def visits(
    messages: int = 1, payload: bytes = TEXT, for_s: float = 0.0, *, varied: bool = False
) -> tuple[Any, ...]:
    return tuple(VisitsTask(messages, payload, for_s, varied))


def over(worker: Any) -> counters.Totals:
    worker.until(lambda _: worker.counted(counters.RAMPED_NS) > 0)
    worker.tell("quit")
    worker.said = worker.hear()
    worker.thread.join(10)  # the row is whole
    return counters.read_totals(worker.table, {})


def echo(connection: Connection) -> None:
    while data := connection.sock.recv(65536):
        connection.sock.sendall(data)


def websocket_echo(connection: Connection) -> None:
    """Answers each message and the close frame, which it counts; then waits for the client to go."""
    connection.upgrade()
    connection.server.count("now")
    while True:
        opcode, payload = read_frame(connection)
        if opcode == 8:
            connection.server.count(f"close {int.from_bytes(payload[:2], 'big')}")
            connection.server.count("now", -1)  # before the client can know, and begin the next
            connection.sock.sendall(bytes((0x88, len(payload))) + payload)
            connection.drain()
            return
        connection.server.count("messages")
        connection.sock.sendall(text_frame(payload))


@pytest.mark.parametrize("concurrency", [1, 7])
def test_each_says_its_messages_and_a_proper_goodbye(run: Run, concurrency: int) -> None:
    with OddServer(websocket_echo) as server:
        worker = run(
            share=53,
            target=("127.0.0.1", server.port),
            protocol="ws",
            concurrency=concurrency,
            visits=visits(3),
        )
        totals = over(worker)
        server.wait("closed", 53)
        counts = server.counts
    assert (totals.started, totals.established, totals.visited, totals.held) == (53, 53, 53, 0)
    assert (totals.messages_sent, totals.messages_answered, totals.messages_wrong) == (159, 159, 0)
    assert (totals.failures, totals.drops) == ({}, {})
    assert (counts["accepted"], counts["messages"], counts["close 1000"]) == (53, 159, 53)
    assert counts["most now"] <= concurrency
    assert counts["lost"] == 0  # each read a clean end
    assert sum(counters.read_handshakes(worker.table)) == 53
    assert sum(counters.read_messages(worker.table)) == 159


def test_never_more_at_once_than_the_concurrency(run: Run) -> None:
    """All that may be open wait for each other: so many are, and while they wait no other begins."""

    def behave(connection: Connection) -> None:
        data = connection.sock.recv(100)
        connection.server.count("asked")
        connection.server.gate.wait(10)
        connection.sock.sendall(data)
        connection.drain()

    with OddServer(behave) as server:
        worker = run(share=29, target=("127.0.0.1", server.port), concurrency=5, visits=visits())
        server.wait("asked", 5)
        worker.until(lambda totals: totals.messages_sent == 5)
        assert (server.accepted, worker.counted(counters.STARTED)) == (5, 5)
        server.gate.set()
        totals = over(worker)
        server.wait("closed", 29)
    assert (totals.visited, server.accepted, server.counts["lost"]) == (29, 29, 0)


def test_bytes_are_what_tcp_carried(run: Run) -> None:
    """Requests and answers included, closed by either side, to the byte."""
    got = threading.Lock()
    carried = [0, 0]  # by the client, by the server

    def behave(connection: Connection) -> None:
        for last in (False, True):
            data = connection.sock.recv(4096)
            with got:
                carried[0] += len(data)
                carried[1] += len(OK)
            with_fin = last and connection.index % 2  # in one segment: it is there when the answer is read
            connection.sock.send(OK, socket.MSG_MORE if with_fin else 0)
        if connection.index % 2:
            connection.sock.shutdown(socket.SHUT_WR)
        connection.drain()

    with OddServer(behave) as server:
        worker = run(share=23, target=("127.0.0.1", server.port), protocol="http", visits=visits())
        totals = over(worker)
        server.wait("closed", 23)
    assert totals.visited == 23
    assert (totals.sent_bytes, totals.received_bytes, totals.unmeasured) == (*carried, 0)


@pytest.mark.parametrize("size", [1 << 16, 1 << 20])
def test_messages_larger_than_any_buffer(run: Run, size: int) -> None:
    payload = (TEXT * (size // len(TEXT) + 1))[:size]
    with OddServer(echo) as server:
        worker = run(share=3, target=("127.0.0.1", server.port), concurrency=2, visits=visits(2, payload))
        totals = over(worker)
    assert (totals.visited, totals.messages_answered) == (3, 6)
    assert totals.sent_bytes == totals.received_bytes == 6 * size


def test_a_wrong_echo_is_counted_and_ends_its_connection(run: Run) -> None:
    """Of every three: right, of the same length, too long."""

    def behave(connection: Connection) -> None:
        data = connection.sock.recv(4096)
        answers = (data, data.replace("ü".encode(), "ö".encode()), data + b".")
        connection.sock.sendall(answers[connection.index % 3])
        while data := connection.sock.recv(4096):
            connection.sock.sendall(data)

    with OddServer(behave) as server:
        worker = run(share=30, target=("127.0.0.1", server.port), visits=visits(2))
        totals = over(worker)
    assert (totals.visited, totals.messages_wrong, totals.messages_answered) == (10, 20, 20)
    assert (totals.messages_sent, totals.drops) == (40, {})


def test_wrong_echoes_over_websocket(run: Run) -> None:
    """Another text, and a server that speaks first: each counts, and each is still closed properly."""

    def behave(connection: Connection) -> None:
        connection.upgrade(text_frame(b"hello") if connection.index % 2 else b"")
        _, payload = read_frame(connection)
        connection.sock.sendall(text_frame(payload[:-4] + "🌎".encode()))
        while payload[:2] != b"\x03\xe8":
            _, payload = read_frame(connection)
        connection.server.count("close")
        connection.sock.sendall(b"\x88\x02\x03\xe8")

    with OddServer(behave) as server:
        worker = run(share=14, target=("127.0.0.1", server.port), protocol="ws", visits=visits())
        totals = over(worker)
        server.wait("closed", 14)
    assert (totals.messages_wrong, totals.messages_answered, totals.visited) == (14, 0, 0)
    assert (totals.drops, server.counts["lost"]) == ({}, 0)


def other_text(connection: Connection) -> None:
    connection.upgrade()
    _, payload = read_frame(connection)
    connection.sock.sendall(text_frame(payload[:-4] + "🌎".encode()))


def wrong_then_reset(connection: Connection) -> None:
    other_text(connection)
    read_frame(connection)
    connection.reset()


def wrong_then_silent(connection: Connection) -> None:
    other_text(connection)
    connection.drain()


def wrong_then_no_frame(connection: Connection) -> None:
    other_text(connection)
    read_frame(connection)
    connection.sock.sendall(b"no frame at all")
    connection.drain()


@pytest.mark.parametrize("behaviour", [wrong_then_reset, wrong_then_silent, wrong_then_no_frame, other_text])
def test_a_wrong_echo_counts_once_however_its_connection_ends(
    run: Run, behaviour: Callable[[Connection], None]
) -> None:
    with OddServer(behaviour) as server:
        worker = run(
            share=11,
            target=("127.0.0.1", server.port),
            protocol="ws",
            concurrency=4,
            timeout_s=0.3 if behaviour is wrong_then_silent else 10.0,
            visits=visits(),
        )
        totals = over(worker)
    assert (totals.established, totals.messages_wrong, totals.visited) == (11, 11, 0)
    assert (totals.drops, totals.held, worker.said[2]) == ({}, 0, {})


@pytest.mark.parametrize("messages", [1, 3])
def test_an_echo_that_comes_twice_is_wrong(run: Run, messages: int) -> None:
    """Alone: it comes when only the close frame is awaited; a ping and a pong may. Of several: it answers
    not the next message."""

    def behave(connection: Connection) -> None:
        connection.upgrade()
        while True:
            opcode, payload = read_frame(connection)
            if opcode == 8:
                return connection.sock.sendall(b"\x88\x02\x03\xe8")
            if opcode == 1:  # and not the pong
                control = b"\x89\x00\x8a\x00"
                connection.sock.sendall(text_frame(payload))
                connection.sock.sendall(control if connection.index % 2 else text_frame(payload))

    with OddServer(behave) as server:
        worker = run(
            share=20,
            target=("127.0.0.1", server.port),
            protocol="ws",
            visits=visits(messages, b"Gr" + TEXT, varied=messages > 1),
        )
        totals = over(worker)
    assert (totals.messages_wrong, totals.visited, totals.drops) == (10, 10, {})
    assert totals.messages_answered == 10 * messages + 10


def test_tcp_messages_differ_where_they_are_of_our_own_making(run: Run) -> None:
    """The second of each is answered with the first."""

    def behave(connection: Connection) -> None:
        first = connection.sock.recv(64)
        connection.sock.sendall(first)
        second = connection.sock.recv(64)
        connection.server.count(f"of {len(first)} and {len(second)}")
        connection.sock.sendall(first if connection.index % 2 else second)
        connection.drain()

    with OddServer(behave) as server:
        worker = run(share=20, target=("127.0.0.1", server.port), visits=visits(2, b"G", varied=True))
        totals = over(worker)
    assert (totals.messages_wrong, totals.visited) == (10, 10)
    assert server.counts["of 1 and 1"] == 20


def goes_away(connection: Connection) -> None:
    connection.upgrade()
    read_frame(connection)
    connection.reset()


def never_answers(connection: Connection) -> None:
    connection.upgrade()
    connection.drain()


def no_goodbye(connection: Connection) -> None:
    connection.upgrade()
    _, payload = read_frame(connection)
    connection.sock.sendall(text_frame(payload))
    read_frame(connection)


def silent_goodbye(connection: Connection) -> None:
    connection.upgrade()
    _, payload = read_frame(connection)
    connection.sock.sendall(text_frame(payload))
    connection.drain()


def not_utf8(connection: Connection) -> None:
    connection.upgrade()
    _, payload = read_frame(connection)
    connection.sock.sendall(text_frame(payload[:-1]))
    connection.drain()


@pytest.mark.parametrize(
    ("behaviour", "cause", "detail"),
    [
        (goes_away, causes.RESET, "ECONNRESET: Connection reset by peer"),
        (never_answers, causes.TIMEOUT, "a message was not answered"),
        (no_goodbye, causes.EOF, "closed without a close frame"),
        (silent_goodbye, causes.TIMEOUT, "the close frame was not answered"),
        (not_utf8, causes.PROTOCOL, "text message is not UTF-8"),
    ],
)
def test_lost_in_the_middle(
    run: Run, behaviour: Callable[[Connection], None], cause: str, detail: str
) -> None:
    with OddServer(behaviour) as server:
        worker = run(
            share=11,
            target=("127.0.0.1", server.port),
            protocol="ws",
            concurrency=4,
            timeout_s=1.0 if cause == causes.TIMEOUT else 10.0,
            visits=visits(),
        )
        totals = over(worker)
    assert (totals.established, totals.visited, totals.drops) == (11, 0, {cause: 11})
    assert worker.said[2] == {cause: {detail: 11}}


@pytest.mark.parametrize("status", [200, 500])
def test_requests_on_a_connection_that_is_kept(run: Run, status: int) -> None:
    def serve(connection: Connection) -> None:
        code = 200
        while True:
            connection.read_head()
            connection.sock.sendall(b"HTTP/1.1 %d Fine\r\nContent-Length: 3\r\n\r\nok\n" % code)
            code = status

    with OddServer(serve) as server:
        worker = run(share=7, target=("127.0.0.1", server.port), protocol="http", visits=visits(4))
        totals = over(worker)
    if status == 200:
        assert (server.accepted, server.counts["requests"], totals.visited) == (7, 35, 7)
    else:
        assert (totals.messages_wrong, totals.visited, totals.drops) == (0, 0, {causes.REJECTED: 7})
        assert worker.said[2] == {causes.REJECTED: {"500 Fine": 7}}


def test_more_than_a_response_is_a_wrong_answer(run: Run) -> None:
    def serve(connection: Connection) -> None:
        for more in (b"", b"and more"):
            connection.read_head()
            connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n" + more)
        connection.drain()

    with OddServer(serve) as server:
        worker = run(share=7, target=("127.0.0.1", server.port), protocol="http", visits=visits())
        totals = over(worker)
    assert (totals.messages_wrong, totals.visited, totals.drops) == (7, 0, {})


@pytest.mark.parametrize("closing", [3, 2], ids=["the last", "the one before"])
def test_a_server_that_closes_after_so_many_requests(run: Run, closing: int) -> None:
    """As nginx with keepalive_requests 3: nothing is lost where no more than that was to be asked."""

    def serve(connection: Connection) -> None:
        for number in range(1, closing + 1):
            connection.read_head()
            last = b"Connection: close\r\n" if number == closing else b""
            connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + last + b"\r\nok\n")

    with OddServer(serve) as server:
        worker = run(share=7, target=("127.0.0.1", server.port), protocol="http", visits=visits(2))
        totals = over(worker)
    if closing == 3:
        assert (totals.visited, totals.drops) == (7, {})
    else:
        assert worker.said[2] == {causes.EOF: {"the server closes after this response": 7}}


def test_no_messages_at_all(run: Run, listener: socket.socket) -> None:
    worker = run(share=31, target=listener.getsockname(), concurrency=9, visits=visits(0))
    totals = over(worker)
    assert (totals.visited, totals.messages_sent, totals.drops) == (31, 0, {})


def test_refused_and_stopped(run: Run, listener: socket.socket) -> None:
    target = listener.getsockname()
    listener.close()
    totals = over(run(share=101, target=target, visits=visits()))
    assert (totals.failures, totals.started) == ({causes.REFUSED: 101}, 101)


def test_connections_begin_as_long_as_it_lasts(run: Run) -> None:
    with OddServer(echo) as server:
        worker = run(
            share=10**12,
            target=("127.0.0.1", server.port),
            concurrency=3,
            visits=visits(for_s=0.3),
        )
        began = time.monotonic()
        totals = over(worker)
    assert 0.25 < time.monotonic() - began < 5
    assert totals.started == totals.visited > 3


def test_the_total_ends_with_the_last_connection(run: Run) -> None:
    """One begins, and the next would after the time is over: what is left of the time counts not."""
    with OddServer(echo) as server:
        worker = run(
            share=10**12,
            target=("127.0.0.1", server.port),
            interval_s=10.0,
            visits=visits(for_s=1.5),
        )
        totals = over(worker)
    assert totals.visited == 1
    assert worker.counted(counters.RAMPED_NS) - worker.counted(counters.BEGAN_NS) < 1.4e9


def stalling(after: int, for_s: float) -> Callable[[Connection], None]:
    """A server of one thread, in effect: while one connection stalls, so do all."""
    turn = threading.Lock()

    def behave(connection: Connection) -> None:
        with turn:
            if connection.index == after:
                threading.Event().wait(for_s)
            connection.upgrade()
        _, payload = read_frame(connection)
        connection.sock.sendall(text_frame(payload))
        _, payload = read_frame(connection)
        connection.sock.sendall(bytes((0x88, len(payload))) + payload)

    return behave


def handshakes_over(worker: Any, microseconds: int) -> int:
    from connprobe.plan.histogram import bucket

    return sum(counters.read_handshakes(worker.table)[bucket(microseconds) :])


def test_a_stall_is_not_left_out_where_starts_are_scheduled(run: Run) -> None:
    """200 connections at 200 a second, and a server that stands still for 0.5 s: 100 are due meanwhile.

    With room for 2 at once the rest must wait, and their wait counts: some 60 of them over 0.2 s.
    """
    with OddServer(stalling(40, 0.5)) as server:
        worker = run(
            share=200,
            target=("127.0.0.1", server.port),
            protocol="ws",
            concurrency=2,
            interval_s=0.005,
            visits=visits(),
        )
        totals = over(worker)
    assert totals.visited == 200
    assert handshakes_over(worker, 200_000) >= 40
    assert totals.handshake_max_us >= 490_000
    assert totals.late_max_us >= 400_000


def test_the_same_stall_hides_where_the_next_waits_for_the_last(run: Run) -> None:
    with OddServer(stalling(40, 0.5)) as server:
        worker = run(
            share=200, target=("127.0.0.1", server.port), protocol="ws", concurrency=2, visits=visits()
        )
        totals = over(worker)
    assert totals.visited == 200
    assert 1 <= handshakes_over(worker, 200_000) <= 2
    assert (totals.late_sum_us, totals.late_max_us) == (0, 0)


def test_latencies_are_those_of_a_server_that_delays(run: Run) -> None:
    """The handshake takes 60 ms, an answer 25 ms; no latency is below, and the most common is near."""

    def behave(connection: Connection) -> None:
        delay = threading.Event()
        accept = connection.accept_key()
        delay.wait(0.06)
        connection.sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        _, payload = read_frame(connection)
        delay.wait(0.025)
        connection.sock.sendall(text_frame(payload))
        _, payload = read_frame(connection)
        connection.sock.sendall(bytes((0x88, len(payload))) + payload)

    from connprobe.plan.histogram import percentile

    with OddServer(behave) as server:
        worker = run(
            share=41, target=("127.0.0.1", server.port), protocol="ws", concurrency=5, visits=visits()
        )
        totals = over(worker)
    assert totals.visited == 41
    handshakes, messages = counters.read_handshakes(worker.table), counters.read_messages(worker.table)
    assert 59_000 <= (percentile(handshakes, 0.0) or 0) <= (percentile(handshakes, 0.5) or 0) < 110_000
    assert 24_500 <= (percentile(messages, 0.0) or 0) <= (percentile(messages, 0.5) or 0) < 60_000


def test_starts_far_apart_are_no_later_than_those_close_together(run: Run, listener: socket.socket) -> None:
    """epoll_wait(2) waits for whole milliseconds, and so for half of one too long. A busy machine delays too:
    the best of a few tries is without that."""
    means = []
    for _ in range(4):
        worker = run(share=20, target=listener.getsockname(), interval_s=0.0403, visits=visits(0))
        totals = over(worker)
        assert totals.visited == 20
        means.append(totals.late_sum_us / totals.started)
    assert min(means) < 300, means
