"""The Node stores keep what they are sent, let go of what is closed, and send a message to all."""

import socket
import struct

import pytest

from running import eventually
from targets.conftest import COUNT, Crowd, Serve, Served, get, silent, until


def message(served: Served) -> int:
    """How many connections the server says to have sent a message to."""
    assert served.ready.message_path is not None
    with served.connect() as asked:
        asked.sendall(get(served.ready.message_path))
        head, _, body = until(asked, b"\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return int(body)


@pytest.mark.parametrize("name", ["node-array", "node-object"])
def test_a_store_keeps_requests_and_sends_a_message_to_all(serve: Serve, crowd: Crowd, name: str) -> None:
    served = serve(name, heap_mb="64")
    assert (served.ready.protocol, served.ready.http_mode) == ("http", "longpoll")
    connections = crowd(served, COUNT)
    for each in connections:
        each.sendall(get())
    assert silent(connections)
    assert eventually(lambda: message(served) == COUNT)
    for each in connections:
        assert until(each, b"a\r\nconnprobe\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    # Out of the middle, the front and the end, and of the rest each has exactly one message more.
    gone = {0, 1, 5, 7, 11, 20, COUNT - 1}
    for index in gone:
        connections[index].close()
    rest = [each for index, each in enumerate(connections) if index not in gone]
    counts: list[int] = []

    def all_are_gone() -> bool:
        counts.append(message(served))
        return counts[-1] == len(rest)

    assert eventually(all_are_gone)
    for each in rest:
        assert until(each, b"a\r\nconnprobe\n\r\n" * len(counts)) == b"a\r\nconnprobe\n\r\n" * len(counts)
    assert silent(rest)


@pytest.mark.parametrize("name", ["node-array", "node-object"])
def test_a_store_survives_clients_that_reset_while_it_writes(serve: Serve, crowd: Crowd, name: str) -> None:
    served = serve(name)
    connections = crowd(served, 211)
    for each in connections:
        each.sendall(get() * 3)  # pipelined: each of them is kept, and goes
    assert eventually(lambda: message(served) == 3 * len(connections))
    (asked,) = crowd(served, 1)
    for index, each in enumerate(connections):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", index % 3 > 0, 0))
        if index % 37 == 0:
            asked.sendall(get("/message"))
        each.close()
    assert eventually(lambda: message(served) == 0)
    assert served.listens()


def test_a_pipeline_is_answered_in_order_once_it_is_released(serve: Serve, crowd: Crowd) -> None:
    served = serve("node-pipeline", heap_mb="64")
    assert served.ready.release_path is not None
    one, other = crowd(served, 2)
    one.sendall(get() * 997)
    other.sendall(get() * 3)
    assert silent([one, other])

    def release() -> int:
        (asked,) = crowd(served, 1)
        asked.sendall(get(served.ready.release_path or ""))
        _, _, body = until(asked, b"\n").partition(b"\r\n\r\n")
        return int(body)

    released = 0

    def all_are_released() -> bool:
        nonlocal released
        released += release()
        return released == 1000

    assert eventually(all_are_released)
    for connection, count in ((one, 997), (other, 3)):
        text = b""
        while text.count(b"HTTP/1.1 200 OK") < count or not text.endswith(b"ok\n"):
            text += connection.recv(65536)
        numbers = [int(line.partition(b":")[2]) for line in text.splitlines() if b"Connprobe-Number" in line]
        assert numbers == list(range(1, count + 1))
