"""A worker in a thread against small real servers: what it counts, says and leaves behind."""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from connprobe import causes
from connprobe.engine import counters
from connprobe.engine.worker import TURN
from connprobe.plan.stock import TICKET
from running import eventually
from servers import RESET, OddServer, answer_nothing, answer_once, mute
from tasks import stock_of

Run = Callable[..., Any]  # see conftest.py


def test_connections_are_opened_held_checked_and_closed(run: Run, listener: socket.socket) -> None:
    worker = run(share=23, target=listener.getsockname())
    totals = worker.until(lambda totals: totals.held == 23)
    accepted = [listener.accept()[0] for _ in range(23)]
    assert (totals.started, totals.established, totals.failed, totals.in_flight) == (23, 23, 0, 0)
    assert sum(counters.read_handshakes(worker.table)) == 23
    worker.until(lambda _: worker.counted(counters.RAMPED_NS) > 0)
    accepted.pop().close()
    worker.tell("check")
    assert worker.hear() == ("checked", {}, {causes.EOF: {"closed by the server": 1}})
    assert worker.until(lambda totals: totals.held == 22).drops == {causes.EOF: 1}
    worker.tell("quit")
    assert worker.hear()[0] == "ended"
    for server in accepted:
        with server:
            server.settimeout(5)
            assert server.recv(1) == b""


def test_nobody_listens(run: Run, listener: socket.socket) -> None:
    target = listener.getsockname()
    listener.close()
    worker = run(share=101, target=target)
    totals = worker.until(lambda totals: totals.failed == 101)
    assert totals.failures == {causes.REFUSED: 101}
    worker.tell("quit")
    assert worker.hear() == ("ended", {causes.REFUSED: {"ECONNREFUSED: Connection refused": 101}}, {})


def test_a_reset_that_came_before_the_worker_looked(run: Run, listener: socket.socket) -> None:
    """What a server resets was established, also where that is the first the worker hears of it."""
    first = threading.Event()

    def reset_all() -> None:
        first.wait(10)
        with TURN:  # behind the worker, when it waits for its first events
            for _ in range(7):
                with listener.accept()[0] as accepted:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    server = threading.Thread(target=reset_all)
    server.start()
    with TURN:
        worker = run(share=7, target=listener.getsockname())
        assert eventually(lambda: len(TURN._queue) == 1)
        first.set()
        assert eventually(lambda: len(TURN._queue) == 2)
    server.join(10)
    totals = worker.until(lambda totals: sum(totals.drops.values()) + totals.failed == 7)
    assert (totals.established, totals.failures, totals.drops) == (7, {}, {causes.RESET: 7})


@pytest.mark.parametrize("protocol", ["tcp", "http"])
def test_more_is_taken_from_the_stock_until_it_is_empty(run: Run, protocol: str) -> None:
    stock = stock_of(TICKET, TICKET, 5)
    with OddServer(answer_once if protocol == "http" else answer_nothing) as server:
        worker = run(share=997, goal=10, target=("127.0.0.1", server.port), protocol=protocol, stock=stock)
        worker.until(lambda totals: worker.counted(counters.RAMPED_NS) > 0)
        totals = worker.until(lambda totals: True)
        assert (totals.started, totals.established) == (271, 271)
        assert worker.counted(counters.GOAL) == 271
        assert not worker.worker.goal.stock


def test_a_worker_takes_no_more_than_it_has_room_for(run: Run) -> None:
    stock = stock_of(TICKET, TICKET, TICKET)
    others = os.dup(stock)
    with OddServer(answer_nothing) as server:
        worker = run(share=10 + 2 * TICKET - 1, goal=10, target=("127.0.0.1", server.port), stock=stock)
        worker.until(lambda totals: worker.counted(counters.RAMPED_NS) > 0)
        assert worker.until(lambda totals: True).established == 10 + TICKET
        assert os.read(others, 9) == bytes([TICKET, TICKET])
        os.close(others)


def test_who_is_told_to_stop_leaves_the_stock(run: Run) -> None:
    stock = stock_of(TICKET, TICKET, TICKET)
    others = os.dup(stock)
    with OddServer(mute) as server:
        worker = run(
            share=997, goal=3, target=("127.0.0.1", server.port), protocol="ws", concurrency=3, stock=stock
        )
        worker.until(lambda totals: totals.in_flight == 3)
        worker.tell("stop")
        assert eventually(lambda: not worker.worker.goal.stock)
        # It has taken one, to know whether it is done.
        assert os.read(others, 9) == bytes([TICKET, TICKET])
        assert worker.until(lambda totals: True).started == 3
        os.close(others)


def test_a_server_that_never_answers(run: Run, listener: socket.socket) -> None:
    worker = run(share=7, target=listener.getsockname(), protocol="ws", timeout_s=0.2)
    began = time.monotonic()
    assert worker.until(lambda totals: totals.failed == 7).failures == {causes.TIMEOUT: 7}
    assert time.monotonic() - began >= 0.19
    worker.tell("quit")
    (details,) = worker.hear()[1].values()
    assert details == {"connected, but the request was not answered": 7}


def test_concurrency_is_kept(run: Run, listener: socket.socket) -> None:
    worker = run(share=50, target=listener.getsockname(), protocol="ws", concurrency=3)
    worker.until(lambda totals: totals.in_flight == 3)
    assert worker.counted(counters.STARTED) == 3
    worker.tell("stop")
    for _ in range(3):
        listener.accept()[0].close()
    totals = worker.until(lambda totals: totals.in_flight == 0)
    assert (totals.started, totals.failed) == (3, 3)  # the rest of its share is not begun any more


def test_sources_are_used_in_turn_and_counted_out(run: Run, listener: socket.socket) -> None:
    sources = (("127.0.0.2", 3, 0, None), ("127.0.0.3", 2, 0, None), ("", 1, 0, None))
    worker = run(share=6, target=listener.getsockname(), sources=sources)
    came = []
    for _ in range(6):
        accepted, (address, _) = listener.accept()
        accepted.close()
        came.append(address)
    assert sorted(came) == ["127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]
    worker.until(lambda totals: totals.dropped == 6)


def test_a_lost_connection_is_opened_again(run: Run, listener: socket.socket) -> None:
    worker = run(share=5, target=listener.getsockname(), reconnect_attempts=3)
    first = [listener.accept()[0] for _ in range(5)]
    for each in first[:3]:
        each.close()
    again = [listener.accept()[0] for _ in range(3)]
    totals = worker.until(lambda totals: totals.held == 5 and totals.reconnected == 3)
    assert (totals.established, totals.dropped, totals.reconnect_attempts, totals.given_up) == (5, 3, 3, 0)
    for each in (*first[3:], *again):
        each.close()


def test_giving_up_after_so_many_attempts(run: Run, listener: socket.socket) -> None:
    worker = run(share=3, target=listener.getsockname(), reconnect_attempts=2)
    accepted = [listener.accept()[0] for _ in range(3)]
    listener.close()
    for each in accepted:
        each.close()
    totals = worker.until(lambda totals: totals.given_up == 3)
    assert (totals.reconnect_attempts, totals.reconnected, totals.held, totals.waiting) == (6, 0, 0, 0)
    assert totals.failed == 0  # a reconnection that fails is no connection that was never established
    worker.tell("check")
    assert worker.hear()[0] == "checked"


def test_a_source_that_is_not_of_this_host(run: Run, listener: socket.socket) -> None:
    worker = run(share=3, target=listener.getsockname(), sources=(("192.0.2.1", 3, 0, None),))
    assert worker.until(lambda totals: totals.failed == 3).failures == {causes.NO_SOURCE_PORT: 3}


def test_the_supervisor_gone_ends_it(run: Run, listener: socket.socket) -> None:
    worker = run(share=3, target=listener.getsockname())
    worker.until(lambda totals: totals.held == 3)
    accepted = [listener.accept()[0] for _ in range(3)]
    worker.control.close()
    worker.thread.join(10)
    assert not worker.thread.is_alive()
    for each in accepted:
        with each:
            each.settimeout(5)
            assert each.recv(1) == b""
