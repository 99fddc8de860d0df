"""Asking a server over a second connection: what it answers may be anything, and may never end."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from connprobe.errors import RunFailed
from connprobe.model import Target
from connprobe.session.trigger import Trigger

Answers = Callable[..., Target]


@pytest.fixture
def answers() -> Iterator[Answers]:
    """answers(first, then) -> the target of a server that sends `first`, and `then` ten times a second."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    threads: list[threading.Thread] = []

    def serve(first: bytes, then: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(first)
                while then and not over.wait(0.1):
                    connection.sendall(then)
            except OSError:  # the client has left
                return

    def start(first: bytes, then: bytes = b"") -> Target:
        threads.append(threading.Thread(target=serve, args=(first, then)))
        threads[0].start()
        return Target(host="127.0.0.1", address="127.0.0.1", port=listener.getsockname()[1], family="ipv4")

    yield start
    over.set()
    for thread in threads:
        thread.join()
    listener.close()


def test_an_answer_that_is_a_stream_is_not_awaited_to_its_end(answers: Answers) -> None:
    target = answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")
    began = time.monotonic()
    with Trigger(target, "/all", None, 20.0) as trigger:
        trigger.answer()
    assert time.monotonic() - began < 10


def test_a_head_that_never_ends_is_given_up_at_the_deadline(answers: Answers) -> None:
    target = answers(b"HTTP/1.1 200 OK\r\n", b"a")
    with Trigger(target, "/all", None, 1.0) as trigger, pytest.raises(RunFailed, match="timed out"):
        trigger.answer()


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        ((("Authorization", "Bearer x"), ("X-A", "1"), ("X-A", "2")), b"Host: %s\r\nAuthorization: Bearer x"),
        ((("Host", "example.org"),), b"Host: example.org\r\n\r\n"),
    ],
)
def test_it_asks_with_the_headers_of_the_run(headers: tuple[tuple[str, str], ...], sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        target = Target(host="127.0.0.1", address="127.0.0.1", port=port, family="ipv4")
        with Trigger(target, "/all", None, 20.0, headers=headers):
            connection, _ = listener.accept()
            with connection:
                head = connection.recv(65536)
    assert head.startswith(b"GET /all HTTP/1.1\r\n")
    assert sent.replace(b"%s", target.label.encode()) in head
    assert all(f"{name}: {value}\r\n".encode() in head for name, value in headers)


def test_an_interruption_ends_the_wait(answers: Answers) -> None:
    target = answers(b"HTTP/1.1 200 OK\r\n", b"a")
    trigger = Trigger(target, "/all", None, 60.0, hurry=lambda: True)
    with trigger, pytest.raises(RunFailed, match="interrupted"):
        trigger.answer()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 Oh\r\n\r\n", "status 500"),
        (b"220 mail\r\n\r\n", "GET /all did not make the server send its message"),
        (b"", "closed before an answer"),
    ],
)
def test_an_answer_that_is_no_good_one_is_told(answers: Answers, said: bytes, why: str) -> None:
    with (
        Trigger(answers(said), "/all", None, 20.0) as trigger,
        pytest.raises(RunFailed, match=why) as failed,
    ):
        trigger.answer()
    assert failed.value.fix
