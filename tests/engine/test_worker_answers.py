"""Answers that are as those before, or are not, read by a worker whole."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

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
