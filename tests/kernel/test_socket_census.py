"""Against sockets in known states and numbers, in a namespace where there are no others."""

import os
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from connprobe.kernel.live import Live
from connprobe.kernel.socket_census import SHARE, Census, Group, SocketCensus, probe
from kernel.sockets import Load, Sockets, other_namespace

SO_MEMINFO = 55  # asm-generic/socket.h: the figures of INET_DIAG_SKMEMINFO
RMEM, WMEM, FORWARD, QUEUED = 0, 2, 4, 5  # linux/sock_diag.h
EMPTY = (0, 0, 0, 0)


@pytest.fixture(scope="module")
def served(load_once: Load) -> Live:
    return load_once(probe())


@pytest.fixture
def census(served: Live) -> SocketCensus:
    return SocketCensus(served)


def counts(taken: Census) -> dict[tuple[str | None, int | None, int, str], int]:
    return {(one.side, one.port, one.ip_version, one.state): one.sockets for one in taken.groups}


def memory(group: Group) -> tuple[int, int, int, int]:
    return group.rmem_bytes, group.wmem_bytes, group.forward_alloc_bytes, group.wmem_queued_bytes


def meminfo(sockets: Iterable[socket.socket]) -> tuple[int, ...]:
    """What the sockets themselves say, summed, in the order of `memory`."""
    rows = [struct.unpack("9I", one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)) for one in sockets]
    return tuple(sum(row[which] for row in rows) for which in (RMEM, WMEM, FORWARD, QUEUED))


def settled(census: SocketCensus) -> Census:
    """Taken when every end that was closed has its answer, which may come on another processor."""
    while True:
        taken = census.take()
        if not {"FIN-WAIT-1", "CLOSING", "LAST-ACK"} & {one.state for one in taken.groups}:
            return taken


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def test_every_state(namespace: None, census: SocketCensus, sockets: Sockets) -> None:
    v4, v6 = sockets.listen(1000), sockets.listen(1000, "::1")
    sockets.connect(v4, 499)
    clients = sockets.connect(v6, 97)
    accepted = [sockets.accept(v4) for _ in range(101)]
    accepted += [sockets.accept(v6) for _ in range(90)]
    for client in clients[:23]:  # all of them accepted
        client.shutdown(socket.SHUT_WR)
    closed = sockets.connect(v4, 11)  # and closed before they are accepted
    for client in closed:
        client.shutdown(socket.SHUT_WR)
    taken = settled(census)
    four, six = port_of(v4), port_of(v6)
    assert counts(taken) == {
        ("server", four, 4, "LISTEN"): 1,
        ("server", four, 4, "ESTAB"): 499,
        ("server", four, 4, "CLOSE-WAIT"): 11,
        ("client", four, 4, "ESTAB"): 499,
        ("client", four, 4, "FIN-WAIT-2"): 11,
        ("server", six, 6, "LISTEN"): 1,
        ("server", six, 6, "ESTAB"): 74,
        ("server", six, 6, "CLOSE-WAIT"): 23,
        ("client", six, 6, "ESTAB"): 74,
        ("client", six, 6, "FIN-WAIT-2"): 23,
    }
    assert Counter({(one.port, one.state): one.unaccepted for one in taken.groups if one.unaccepted}) == {
        (four, "ESTAB"): 398,
        (four, "CLOSE-WAIT"): 11,
        (six, "ESTAB"): 7,
    }
    assert taken.netns == Path("/proc/thread-self/ns/net").stat().st_ino
    assert (taken.sockets, taken.lost) == (1 + 499 + 11 + 499 + 11 + 1 + 74 + 23 + 74 + 23, {})
    assert taken.duration_s > 0
    assert taken.duration_s / (taken.duration_s + taken.rest_s) == pytest.approx(SHARE)
    assert len(accepted) == 191


def test_structs_that_are_shorter_than_a_socket(
    namespace: None, census: SocketCensus, sockets: Sockets
) -> None:
    listener = sockets.listen(100)
    port = port_of(listener)
    for client in sockets.connect(listener, 23):
        server = sockets.accept(listener)
        client.close()
        server.close()
    waits = sockets.listen(100)
    waits.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)  # a request until data comes
    for _ in range(7):
        client = socket.create_connection(waits.getsockname())
        sockets.keep(client)
    taken = settled(census)
    found = counts(taken)
    assert found == {
        ("server", port, 4, "LISTEN"): 1,
        ("client", port, 4, "TIME-WAIT"): 23,
        ("server", port_of(waits), 4, "LISTEN"): 1,
        ("server", port_of(waits), 4, "NEW-SYN-RECV"): 7,
        ("client", port_of(waits), 4, "ESTAB"): 7,
    }
    for group in taken.groups:
        assert (memory(group), group.unaccepted) == (EMPTY, 0)


def test_a_connect_that_nobody_answers(namespace: None, census: SocketCensus, sockets: Sockets) -> None:
    listener = sockets.listen(3)
    sockets.connect(listener, 23)
    port = port_of(listener)
    found = counts(census.take())
    assert found["client", port, 4, "SYN-SENT"] + found["client", port, 4, "ESTAB"] == 23
    assert found["server", port, 4, "ESTAB"] == 4


def test_bytes_that_wait(namespace: None, census: SocketCensus, sockets: Sockets) -> None:
    """Received and not read; and, as the receiver's window is shut, sent to no avail."""
    listener = sockets.listen(1000)
    clients = sockets.connect(listener, 97)
    servers = [sockets.accept(listener) for _ in clients]
    for number, client in enumerate(clients):
        client.send(bytes(1 + 997 * (number % 23)))
    for server in servers[:7]:
        server.setblocking(False)
        try:
            while True:
                server.send(bytes(1 << 16))
        except BlockingIOError:
            pass
    while True:
        before = meminfo([listener]), meminfo(clients), meminfo(servers)
        taken = census.take()
        if before == (meminfo([listener]), meminfo(clients), meminfo(servers)):
            break
    found = {(one.side, one.state): memory(one) for one in taken.groups}
    listening, ours, theirs = before
    assert found == {
        ("server", "LISTEN"): listening,
        ("client", "ESTAB"): ours,
        ("server", "ESTAB"): theirs,
    }
    sent = sum(1 + 997 * (number % 23) for number in range(97))
    assert theirs[0] > sent  # with the overhead of each packet
    assert theirs[3] > 0


def test_another_namespace(census: SocketCensus, sockets: Sockets) -> None:
    with other_namespace():
        there = sockets.listen(100)
        sockets.connect(there, 23)
        inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        number = os.fstat(inside).st_ino
    try:
        home = Path("/proc/thread-self/ns/net").stat().st_ino
        taken = census.take(Path(f"/proc/self/fd/{inside}"))
        assert Path("/proc/thread-self/ns/net").stat().st_ino == home
    finally:
        os.close(inside)
    port = port_of(there)
    assert counts(taken) == {
        ("server", port, 4, "LISTEN"): 1,
        ("server", port, 4, "ESTAB"): 23,
        ("client", port, 4, "ESTAB"): 23,
    }
    assert taken.netns == number
    assert census.take().netns == home
    with pytest.raises(FileNotFoundError):
        census.take(Path("/proc/self/ns/nothing"))


def test_each_census_begins_anew(namespace: None, census: SocketCensus, sockets: Sockets) -> None:
    listener = sockets.listen(100)
    port = port_of(listener)
    sockets.connect(listener, 23)
    first, second = census.take(), census.take()
    assert counts(first) == counts(second)
    accepted = [sockets.accept(listener) for _ in range(23)]
    listener.close()  # its children are no server's any more, as far as can be told
    taken = census.take()
    assert ("server", port, 4, "ESTAB") not in counts(taken)
    assert sum(one.sockets for one in taken.groups) == 2 * len(accepted)
    assert counts(taken)["client", port, 4, "ESTAB"] == 23


def test_a_client_whose_source_port_is_a_listening_one(
    namespace: None, census: SocketCensus, sockets: Sockets
) -> None:
    listener = sockets.listen(100)
    port = port_of(listener)
    for number in range(2, 25):
        client = sockets.keep(socket.socket())
        client.bind((f"127.0.0.{number}", port))
        client.connect(listener.getsockname())
    assert counts(census.take()) == {
        ("server", port, 4, "LISTEN"): 1,
        ("server", port, 4, "ESTAB"): 23,
        ("client", port, 4, "ESTAB"): 23,
    }


def test_more_groups_than_there_is_room_for(namespace: None, load: Load, sockets: Sockets) -> None:
    census = SocketCensus(load(probe(groups=2)))
    listener = sockets.listen(100)
    sockets.connect(listener, 23)
    other = sockets.listen(100, "::1")
    sockets.connect(other, 7)
    for _ in range(2):
        taken = census.take()
        assert taken.sockets == 1 + 23 + 23 + 1 + 7 + 7
        rest = {(one.ip_version, one.state): one.sockets for one in taken.groups if one.port is None}
        assert rest == {(4, "ESTAB"): 46, (6, "ESTAB"): 14}
        assert taken.lost == {"groups_full": 60}
        unaccepted = sum(one.unaccepted for one in taken.groups)
        assert unaccepted == 30
