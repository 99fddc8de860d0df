"""Real nginx and HAProxy, in the foreground, and clients that fill them up one by one."""

import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from running import eventually

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (  # HAProxy refuses one without a key
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# Answered with 100 once it is read. Until then nginx may close it to make room, as one between requests.
UNFINISHED = b"POST /ws HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
ANSWER_S = 30.0

# Answers every upgrade, and keeps it.
BEHIND = """
import asyncio, sys
async def serve(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\n")
    writer.write(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\\r\\n")
    writer.write(b"Connection: Upgrade\\r\\n\\r\\n")
    await reader.read()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def run() -> Iterator[Run]:
    """run(port, command...): a program in the foreground, once it listens on `port`."""
    with ExitStack() as stack:

        def start(port: int, *command: str, cwd: Path | None = None) -> "subprocess.Popen[bytes]":
            if shutil.which(command[0]) is None:
                pytest.skip(f"needs {command[0]}: apt-get install {command[0]}")
            process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            assert eventually(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            return process

        yield start


@pytest.fixture
def behind() -> Iterator[int]:
    """The port of a WebSocket server to pass connections on to."""
    command = [sys.executable, "-c", BEHIND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


class Crowd:
    """Connections that are opened and never closed, and an eye on each."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._sockets: list[socket.socket] = []
        self._lost = select.epoll()

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()
        self._lost.close()

    @property
    def held(self) -> int:
        return len(self._sockets)

    def grow(self, count: int) -> bool:
        """Up to `count`. False: one was closed, and `held` were there before."""
        while len(self._sockets) < count:
            one = socket.create_connection(("127.0.0.1", self._port), ANSWER_S)
            one.sendall(self._request)
            try:
                alive = bool(one.recv(4096))
            except ConnectionError:
                alive = False
            if not alive or self._lost.poll(0):
                one.close()
                return False
            self._sockets.append(one)
            self._lost.register(one, select.EPOLLIN | select.EPOLLRDHUP)
        return True

    def close_one(self) -> None:
        one = self._sockets.pop()
        self._lost.unregister(one)
        one.close()

    def loses_one(self) -> bool:
        return bool(self._lost.poll(ANSWER_S))

    def loses_none(self) -> bool:
        return not self._lost.poll(0)
