"""Against servers that let their connections wait, by the clocks of the test itself."""

import os
import select
import socket
import time

import pytest

from connprobe.kernel.accept_wait import AcceptWait, AcceptWaits, Reading, probe
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Probe
from kernel.io_uring import AcceptRing
from kernel.sockets import Load, Sockets, inode_of, other_namespace

HOOKS = ("fexit", "system call tracepoints", "raw tracepoint sys_exit")


@pytest.fixture(params=HOOKS, scope="module")
def offered(request: pytest.FixtureRequest) -> Probe:
    """The probe with one kind of hook alone: each must count the same."""
    one = probe()
    return one._replace(rungs=tuple(rung for rung in one.rungs if rung.name.startswith(request.param)))


@pytest.fixture(scope="module")
def served(load_once: Load, offered: Probe) -> Live:
    return load_once(offered)


@pytest.fixture
def waits(served: Live) -> AcceptWaits:
    return AcceptWaits(served)


def of(reading: Reading, listener: socket.socket | int) -> AcceptWait:
    inode = listener if isinstance(listener, int) else inode_of(listener)
    (wait,) = (wait for wait in reading.listeners if wait.inode == inode)
    return wait


def abandoned(reading: Reading, port: int) -> int:
    return sum(one.connections for one in reading.abandoned if one.at.port == port)


def median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def test_a_server_that_sleeps_before_each_accept(waits: AcceptWaits, sockets: Sockets) -> None:
    listener = sockets.listen(100)
    called, connected, least, most = [], [], [], []
    for _ in range(23):
        called.append(time.monotonic())
        sockets.connect(listener)
        connected.append(time.monotonic())
    for i in range(23):
        time.sleep(0.05)
        before = time.monotonic()
        sockets.accept(listener)
        least.append(1000 * (before - connected[i]))
        most.append(1000 * (time.monotonic() - called[i]))
    wait = of(waits.read(), listener)
    p50 = wait.percentile_ms(0.5)
    assert wait.accepted == sum(wait.waits) == 23
    assert p50 is not None
    assert 0.9 * median(least) <= p50 <= 1.1 * median(most)
    assert max(least) <= wait.longest_us / 1000 <= max(most)
    assert sum(least) <= wait.total_us / 1000 <= sum(most)


def test_a_server_that_is_waiting_takes_them_at_once(waits: AcceptWaits, sockets: Sockets) -> None:
    listener = sockets.listen(10, "::1")
    for _ in range(17):
        began = time.monotonic()
        sockets.connect(listener)
        sockets.accept(listener)
        took_us = 1e6 * (time.monotonic() - began)
        wait = of(waits.read(), listener)
        assert wait.longest_us <= took_us
    assert wait.accepted == 17
    assert of(waits.read(), listener).longest_us == 0


def test_two_listeners_and_one_that_is_closed(waits: AcceptWaits, sockets: Sockets) -> None:
    one, two = sockets.listen(10), sockets.listen(10, "127.0.0.2")
    inode, port = inode_of(one), one.getsockname()[1]
    sockets.connect(one, 5)
    sockets.connect(two, 3)
    sockets.accept(one)
    for _ in range(3):
        sockets.accept(two)
    one.close()
    reading = waits.read()
    assert (of(reading, inode).accepted, of(reading, inode).closed) == (1, True)
    assert (of(reading, two).accepted, of(reading, two).closed) == (3, False)
    assert abandoned(reading, port) == 4
    assert [wait for wait in waits.read().listeners if wait.inode == inode] == []


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def test_a_client_that_resets_while_it_waits_may_still_be_accepted(
    waits: AcceptWaits, sockets: Sockets
) -> None:
    listener = sockets.listen(10)
    (client,) = sockets.connect(listener)
    connected = time.monotonic()
    reset(client)
    deadline = time.monotonic() + 60
    while not (found := abandoned(waits.read(), listener.getsockname()[1])) and time.monotonic() < deadline:
        os.sched_yield()  # until the reset has arrived
    assert found == 1
    least = time.monotonic() - connected
    sockets.accept(listener)
    wait = of(waits.read(), listener)
    assert wait.accepted == 1
    assert wait.longest_us >= 1e6 * least


def test_clients_of_one_port_that_reset_by_both_families(waits: AcceptWaits, sockets: Sockets) -> None:
    four = sockets.listen(10)
    port = four.getsockname()[1]
    six = sockets.keep(socket.create_server(("::1", port), family=socket.AF_INET6))
    for listener, address in ((four, "127.0.0.1"), (six, "::1")):
        client = sockets.keep(socket.create_connection((address, port)))
        reset(client)
        listener.close()
    rows = [one for one in waits.read().abandoned if one.at.port == port]
    assert [(one.at.address.version, one.connections) for one in rows] == [(4, 1), (6, 1)]


def test_a_client_that_closes_while_it_waits_has_waited(waits: AcceptWaits, sockets: Sockets) -> None:
    listener = sockets.listen(10)
    sockets.connect(listener)[0].close()
    sockets.accept(listener)
    reading = waits.read()
    assert of(reading, listener).accepted == 1
    assert abandoned(reading, listener.getsockname()[1]) == 0


def test_what_arrives_while_one_waits_does_not_shorten_its_wait(waits: AcceptWaits, sockets: Sockets) -> None:
    """The kernel notes the time anew when a process has read."""
    listener = sockets.listen(10)
    (client,) = sockets.connect(listener)
    connected = time.monotonic()
    sent = sum(client.send(bytes(4096)) for _ in range(16))
    time.sleep(0.05)
    client.send(b"last")
    least = time.monotonic() - connected
    server = sockets.accept(listener)
    while sent > 0:
        sent -= len(server.recv(sent))
    wait = of(waits.read(), listener)
    assert (wait.accepted, wait.waits.count(1)) == (1, 1)
    assert wait.longest_us >= 1e6 * least


def test_the_same_address_in_another_namespace(waits: AcceptWaits, sockets: Sockets) -> None:
    here = sockets.listen(10)
    with other_namespace():
        there = sockets.listen(10, port=here.getsockname()[1])
        sockets.connect(there, 7)
    sockets.connect(here, 3)
    for listener, count in ((here, 3), (there, 7)):
        for _ in range(count):
            sockets.accept(listener)
    reading = waits.read()
    assert (of(reading, here).accepted, of(reading, there).accepted) == (3, 7)
    assert of(reading, here).at.netns != of(reading, there).at.netns


def test_a_group_that_shares_a_port_is_told_apart(waits: AcceptWaits, sockets: Sockets) -> None:
    first = sockets.listen(100, reuse=True)
    group = [first, sockets.listen(100, port=first.getsockname()[1], reuse=True)]
    sockets.connect(first, 53, group=group)
    accepted = {inode_of(member): 0 for member in group}
    for member in group:
        while select.select([member], [], [], 0)[0]:
            sockets.accept(member)
            accepted[inode_of(member)] += 1
    reading = waits.read()
    assert {wait.inode: wait.accepted for wait in reading.listeners if wait.inode in accepted} == {
        inode: count for inode, count in accepted.items() if count
    }
    assert sum(accepted.values()) == 53


def test_a_server_that_forks_after_listen(waits: AcceptWaits, sockets: Sockets) -> None:
    listener = sockets.listen(50)
    sockets.connect(listener, 18)
    for count in (7, 11):
        pid = os.fork()
        if pid == 0:
            for _ in range(count):
                listener.accept()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    assert of(waits.read(), listener).accepted == 18


def test_accepts_by_io_uring_are_counted_where_a_hook_shows_them(
    served: Live, waits: AcceptWaits, sockets: Sockets
) -> None:
    """Others are told by comparison with the queue: tests/session/kernel/test_kernelview.py."""
    listener = sockets.listen(50)
    sockets.connect(listener, 13)
    with AcceptRing() as ring:
        kept = [ring.accept(listener) for _ in range(8)]
    for _ in range(5):
        sockets.accept(listener)
    reading = waits.read()
    assert of(reading, listener).accepted == (13 if served.rung.startswith("fexit ") else 5)
    for one in kept:
        one.close()
    assert abandoned(waits.read(), listener.getsockname()[1]) == 0


def test_an_mptcp_listener_whose_clients_may_speak_tcp(waits: AcceptWaits, sockets: Sockets) -> None:
    listener = sockets.listen(20, protocol=socket.IPPROTO_MPTCP)
    sockets.connect(listener, 7)
    for _ in range(7):
        sockets.accept(listener)
    assert of(waits.read(), listener).accepted == 7
    before = waits.read().lost.get("unknown_accepts", 0)
    sockets.connect(listener, 5, protocol=socket.IPPROTO_MPTCP)
    for _ in range(5):
        sockets.accept(listener)
    assert waits.read().lost["unknown_accepts"] == before + 5


def test_more_listeners_than_there_is_room_for(load: Load, sockets: Sockets) -> None:
    waits = AcceptWaits(load(probe(listeners=2)))
    listeners = [sockets.listen(10) for _ in range(5)]
    for listener in listeners:
        sockets.connect(listener)
        sockets.accept(listener)
    reading = waits.read()
    assert reading.lost["listeners_full"] >= 3
    mine = {inode_of(listener) for listener in listeners}
    assert sum(wait.accepted for wait in reading.listeners if wait.inode in mine) <= 2


def test_connections_that_waited_before_the_probe_came(load: Load, sockets: Sockets) -> None:
    listener = sockets.listen(50)
    called = time.monotonic()
    sockets.connect(listener, 5)
    connected = time.monotonic()
    waits = AcceptWaits(load(probe()))
    least = time.monotonic() - connected
    sockets.connect(listener, 2)
    for _ in range(7):
        sockets.accept(listener)
    wait = of(waits.read(), listener)
    assert wait.accepted == 7
    assert 1e6 * least <= wait.longest_us <= 1e6 * (time.monotonic() - called)
    assert wait.total_us >= 5e6 * least
