"""A worker in a thread, for tests that talk to it as its supervisor does."""

import marshal
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connprobe.engine import counters
from connprobe.engine.task import Task
from connprobe.engine.worker import prepare, worker_for
from connprobe.fleet.shared import SharedTable


class Running:
    def __init__(self, **task: Any) -> None:
        share = task["share"]
        values: dict[str, Any] = {
            "goal": share,
            "family": int(socket.AF_INET),
            "sources": (("", share, 0, None),),
            "protocol": "tcp",
            "http_mode": "keepalive",
            "host": "server",
            "path": "/",
            "headers": (),
            "concurrency": 100,
            "interval_s": 0.0,
            "delay_s": 0.0,
            "timeout_s": 5.0,
            "ping_s": 0.0,
            "reconnect_attempts": 0,
            "tls": None,
            "bursts": True,
            **task,
        }
        self.table = SharedTable(1, counters.COLUMNS)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(10)
        self._theirs = theirs
        made = Task(**values)
        self.worker = worker_for(made, self.table.row(0), theirs, *prepare(made))
        self.thread = threading.Thread(target=self.worker.run, daemon=True)
        self.thread.start()

    def counted(self, column: int) -> int:
        return self.table.total(column)

    def until(self, condition: Callable[[counters.Totals], bool]) -> counters.Totals:
        deadline = time.monotonic() + 10
        while True:
            totals = counters.read_totals(self.table, {})
            if condition(totals):
                return totals
            assert time.monotonic() < deadline, totals
            time.sleep(0.001)  # the worker is a thread: who only yields keeps it from the interpreter

    def tell(self, *message: Any) -> None:
        self.control.send(marshal.dumps(message))

    def hear(self) -> tuple[Any, ...]:
        said: tuple[Any, ...] = marshal.loads(self.control.recv(1 << 16))
        return said

    def abandon(self) -> None:
        self.control.close()  # as when the supervisor is killed
        self.thread.join(10)
        assert not self.thread.is_alive()

    def end(self) -> None:
        self.abandon()
        self._theirs.close()
        os.close(self.table.fd)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def runner(**task: Any) -> Running:
        running.append(Running(**task))
        return running[-1]

    yield runner
    for each in running:
        each.end()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as made:
        made.settimeout(10)
        yield made
