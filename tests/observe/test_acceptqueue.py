"""Listeners that fill, close and come back, followed by their real sockets; and rows no test can wait for."""

import socket
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from connprobe.model import ListenerFigures
from connprobe.observe import acceptqueue
from connprobe.observe.acceptqueue import AcceptQueues
from connprobe.observe.sockdiag import ListenSocket, listen_sockets, listen_sockets_from_proc
from running import eventually

SOMAXCONN = int(Path("/proc/sys/net/core/somaxconn").read_text())


def listening(
    stack: ExitStack, address: tuple[str, int] = ("127.0.0.1", 0), backlog: int = 3
) -> socket.socket:
    listener = stack.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    listener.listen(backlog)
    return listener


def attempt(stack: ExitStack, address: tuple[str, int], count: int) -> list[socket.socket]:
    clients = []
    for _ in range(count):
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(address)
        clients.append(client)
    return clients


def at(
    port: int, depth: int, drops: int, cookie: int = 1, *, inode: int = 17, backlog: int = 3
) -> ListenSocket:
    address = ip_address("127.0.0.1")
    return ListenSocket(address, socket.AF_INET, False, 0, 0, inode, port, depth, backlog, drops, cookie)


def of_port(queues: AcceptQueues, port: int) -> ListenerFigures:
    return next(each for each in queues.figures() if each.address.endswith(f":{port}"))


def only(queues: AcceptQueues) -> ListenerFigures:
    (figures,) = queues.figures()
    return figures


def test_a_queue_that_fills_and_empties() -> None:
    with ExitStack() as stack:
        listener = listening(stack)
        address = listener.getsockname()
        attempt(stack, address, 23)
        assert eventually(lambda: (listen_sockets(address[1])[0].drops or 0) >= 19)
        queues = AcceptQueues(SOMAXCONN)
        first = listen_sockets(address[1])
        queues.sample(first)
        for _ in range(4):
            stack.enter_context(listener.accept()[0])
        attempt(stack, address, 9)
        last = listen_sockets(address[1])
        queues.sample(last)
        figures = only(queues)
    assert figures.address == f"127.0.0.1:{address[1]}"
    assert (figures.depth_max, figures.capacity, figures.source) == (4, 4, "sock_diag")
    assert first[0].drops is not None
    assert last[0].drops is not None
    assert first[0].drops >= 19
    assert figures.overflows == last[0].drops - first[0].drops  # none from before the first sample
    assert not figures.complete
    assert "2 samples" in str(figures.reason)
    assert str(figures.capacity_from).startswith("backlog argument of listen(2): 3")


def test_a_group_is_told_apart_and_summed() -> None:
    with ExitStack() as stack:
        first = listening(stack)
        address = first.getsockname()
        second = listening(stack, address, backlog=6)
        queues = AcceptQueues()
        queues.sample(listen_sockets(address[1]))
        attempt(stack, address, 97)
        assert eventually(lambda: sum(each.depth or 0 for each in listen_sockets(address[1])) == 4 + 7)
        queues.sample(listen_sockets(address[1]))
        figures = only(queues)
        inodes = {Path(f"/proc/self/fd/{each.fileno()}").stat().st_ino for each in (first, second)}
    assert {each.inode for each in figures.sockets} == inodes
    assert (figures.depth, figures.depth_max, figures.capacity) == (11, 11, 11)
    assert sorted((each.depth_max, each.capacity) for each in figures.sockets) == [(4, 4), (7, 7)]
    assert figures.overflows == sum(each.overflows or 0 for each in figures.sockets)
    assert figures.overflows >= 97 - 11


def test_a_listener_that_closes_and_another_that_takes_its_port() -> None:
    with ExitStack() as stack, ExitStack() as clients:
        queues = AcceptQueues()
        queues.sample(listen_sockets())
        listener = listening(stack)
        address = listener.getsockname()
        attempt(clients, address, 23)
        assert eventually(lambda: (listen_sockets(address[1])[0].drops or 0) >= 19)
        queues.sample(listen_sockets(address[1]))
        clients.close()
        listener.close()
        queues.sample(listen_sockets(address[1]))
        assert of_port(queues, address[1]).depth is None
        listening(stack, address, backlog=7)
        attempt(clients, address, 5)
        assert eventually(lambda: listen_sockets(address[1])[0].depth == 5)
        queues.sample(listen_sockets(address[1]))
        figures = of_port(queues, address[1])
    assert [(each.gone, each.capacity, each.depth_max) for each in figures.sockets] == [
        (False, 8, 5),
        (True, 4, 4),
    ]
    assert figures.sockets[1].overflows == figures.overflows
    assert figures.overflows is not None
    assert figures.overflows >= 19  # it came after the start, so all that it ever dropped counts
    assert (figures.depth, figures.depth_max, figures.capacity) == (5, 5, 8)
    assert "1 sockets were closed" in str(figures.reason)


def test_the_lower_rung_says_what_it_cannot_tell() -> None:
    with ExitStack() as stack:
        address = listening(stack).getsockname()
        attempt(stack, address, 4)
        assert eventually(lambda: listen_sockets_from_proc(address[1])[0].depth == 4)
        queues = AcceptQueues()
        queues.sample(listen_sockets_from_proc(address[1]))
        figures = only(queues)
    assert (figures.depth_max, figures.capacity, figures.overflows) == (4, None, None)
    assert figures.source == "/proc/net/tcp"
    assert "neither capacity nor drops" in str(figures.reason)


def test_somaxconn_may_be_the_cap() -> None:
    with ExitStack() as stack:
        port = listening(stack, backlog=SOMAXCONN + 23).getsockname()[1]
        queues = AcceptQueues(SOMAXCONN)
        queues.sample(listen_sockets(port))
        figures = only(queues)
    assert figures.capacity == SOMAXCONN + 1
    assert str(figures.capacity_from).startswith(f"net.core.somaxconn: {SOMAXCONN}")


def test_an_inode_number_given_twice_and_a_counter_that_ran_over() -> None:
    queues = AcceptQueues()
    queues.sample([at(80, 1, 0xFFFFFFFF)])
    queues.sample([at(80, 2, 22)])
    assert only(queues).overflows == 23
    queues.sample([at(80, 0, 5, cookie=2)])
    assert only(queues).overflows == 28
    assert [each.gone for each in only(queues).sockets] == [False, True]


def test_nothing_listens() -> None:
    queues = AcceptQueues()
    assert queues.figures() == ()
    queues.sample([])
    assert queues.figures() == ()


def test_memory_is_bounded_while_listeners_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptqueue, "ADDRESSES_KEPT", 5)
    queues = AcceptQueues()
    queues.sample([])
    for number in range(1, 98):
        queues.sample([at(80, 0, 1, number), at(1000 + number, 0, 1, number, inode=18)])
    figures = queues.figures()
    assert len(figures) == 5
    assert queues.forgotten == 97 + 1 - 5
    assert figures[0].address == "127.0.0.1:80"
    assert figures[0].overflows == 97  # though only the last of its sockets are told apart
    assert len(figures[0].sockets) == 1 + acceptqueue.CLOSED_KEPT
