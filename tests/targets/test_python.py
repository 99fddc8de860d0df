"""The Python servers echo, and go on where descriptors or threads run out."""

import os
import resource
import socket
from pathlib import Path

import pytest

from connprobe.observe.sockdiag import listen_sockets
from running import eventually
from targets.conftest import COUNT, Crowd, Serve, receives


def echoes(one: socket.socket, text: bytes) -> bool:
    one.sendall(text)
    return receives(one, text)


@pytest.mark.parametrize("name", ["python-asyncio", "python-threads"])
def test_a_python_server_echoes(serve: Serve, crowd: Crowd, name: str) -> None:
    served = serve(name)
    assert served.ready.protocol == "tcp"
    connections = crowd(served, COUNT)
    assert all(echoes(each, b"message %d" % number) for number, each in enumerate(connections))
    assert echoes(connections[0], os.urandom(100_000))


@pytest.mark.parametrize("name", ["python-asyncio", "python-threads"])
def test_out_of_descriptors_a_python_server_waits_and_goes_on(serve: Serve, crowd: Crowd, name: str) -> None:
    served = serve(name)
    (first,) = crowd(served, 1)
    assert echoes(first, b"all that it opens later is open")
    limit = 41
    resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (limit, limit))
    connections = crowd(served, 2 * limit)
    fds = Path(f"/proc/{served.pid}/fd")
    assert eventually(lambda: len(list(fds.iterdir())) == limit)
    (listener,) = listen_sockets(served.port)
    assert (listener.backlog or 0) > 4 * limit
    assert eventually(lambda: (listen_sockets(served.port)[0].depth or 0) > limit)
    assert echoes(first, b"this one is not disturbed")
    for each in connections[:limit]:
        each.close()
    assert all(echoes(each, b"now there is room") for each in connections[limit : 2 * limit - 8])


def test_each_connection_has_a_thread_of_that_stack(serve: Serve, crowd: Crowd) -> None:
    served = serve("python-threads", stack_kb="148")
    assert all(echoes(each, b"hello") for each in crowd(served, COUNT))
    status = Path(f"/proc/{served.pid}/status").read_text()
    assert f"\nThreads:\t{COUNT + 1}\n" in status
    ranges = (
        line.split()[0].split("-") for line in Path(f"/proc/{served.pid}/maps").read_text().splitlines()
    )
    sizes = [int(end, 16) - int(start, 16) for start, end in ranges]
    assert sizes.count(148 * 1024) >= COUNT


def test_without_room_for_a_thread_a_connection_is_closed(serve: Serve, crowd: Crowd) -> None:
    stack_kb = 1 << 16
    served = serve("python-threads", stack_kb=str(stack_kb))
    (first,) = crowd(served, 1)
    assert echoes(first, b"hello")
    status = Path(f"/proc/{served.pid}/status").read_text()
    (now_kb,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:"))
    most = (now_kb + 5 * stack_kb) * 1024
    resource.prlimit(served.pid, resource.RLIMIT_AS, (most, most))
    connections = crowd(served, 11)
    lost = 0
    for each in connections:
        try:
            lost += not echoes(each, b"is there a thread?")
        except ConnectionError:
            lost += 1
    assert 6 <= lost <= 8
    assert echoes(first, b"this one is not disturbed")
