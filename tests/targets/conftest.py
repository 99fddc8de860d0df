"""Reference servers that listen, started as `ready` says, and what is said to them."""

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from connprobe import targets
from connprobe.errors import RunFailed
from running import eventually

COUNT = 23
PATIENCE_S = 30.0


class Served:
    """A reference server that listens."""

    def __init__(self, name: str, directory: Path, options: dict[str, str]) -> None:
        self.address = options.get("address", "127.0.0.1")
        self.family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        with socket.create_server((self.address, 0), family=self.family) as taken:
            self.port = int(taken.getsockname()[1])
        try:
            self.ready = targets.ready(name, self.port, directory, options)
        except RunFailed as missing:
            pytest.skip(f"{missing}: {missing.fix}")
        self.output = directory.with_suffix(".output")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.ready.command,
                env={**os.environ, **self.ready.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.process.returncode}: {self.output.read_text()}")
        with socket.socket(self.family) as asked:
            return asked.connect_ex((self.address, self.port)) == 0

    def connect(self) -> socket.socket:
        return socket.create_connection((self.address, self.port), PATIENCE_S)

    def family_tree(self) -> list[int]:
        found, left = [], [self.pid]
        while left:
            found.append(left.pop())
            with suppress(OSError):
                for task in Path(f"/proc/{found[-1]}/task").iterdir():
                    left += map(int, (task / "children").read_text().split())
        return found

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


Serve = Callable[..., Served]
Crowd = Callable[[Served, int], list[socket.socket]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """serve(name, **options) -> Served, in a directory of its own, which has a space in its name."""
    started: list[Served] = []

    def start(name: str, **options: str) -> Served:
        directory = tmp_path / f"run {len(started)}"
        directory.mkdir(0o700)
        started.append(Served(name, directory, options))
        assert eventually(started[-1].listens)
        return started[-1]

    yield start
    for each in started:
        each.process.terminate()
        try:
            each.process.wait(PATIENCE_S)
        finally:
            each.process.kill()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """crowd(served, count): so many connections to it, closed with the test."""
    with ExitStack() as stack:
        yield lambda served, count: [stack.enter_context(served.connect()) for _ in range(count)]


def get(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def until(one: socket.socket, end: bytes) -> bytes:
    """What comes, up to `end`."""
    received = b""
    while not received.endswith(end):
        data = one.recv(65536)
        assert data, received
        received += data
    return received


def receives(one: socket.socket, expected: bytes) -> bool:
    received = b""
    while len(received) < len(expected):
        data = one.recv(65536)
        if not data:
            break
        received += data
    return received == expected


def silent(connections: list[socket.socket]) -> bool:
    """Nothing came on any, and none was closed."""
    asked = select.poll()
    for each in connections:
        asked.register(each, select.POLLIN | select.POLLRDHUP)
    return asked.poll(0) == []
