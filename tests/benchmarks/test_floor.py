"""The floor is only a floor if it does what it is compared for: hold, upgrade, answer pings, let go."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, Pong, Request

ESTABLISHED, TIME_WAIT = "01", "06"  # include/net/tcp_states.h

ws = pytest.mark.parametrize("floor_server", ["ws"], indirect=True)
http = pytest.mark.parametrize("floor_server", ["http"], indirect=True)


def sockets_of(port: int, state: str) -> set[tuple[str, str]]:
    """Sockets of this server in one state, on either side, as (local, remote), from /proc/net/tcp.

    Told by the whole address: on another one the same port may be anybody's.
    """
    server = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {(row[1], row[2]) for row in rows if server in row[1:3] and row[3] == state}


def answer(sock: socket.socket, conn: WSConnection) -> list[object]:
    conn.receive_data(sock.recv(4096) or None)
    return list(conn.events())


def upgraded(port: int) -> tuple[socket.socket, WSConnection]:
    """wsproto draws a new key for each connection, and refuses a wrong Sec-WebSocket-Accept."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    conn = WSConnection(ConnectionType.CLIENT)
    sock.sendall(conn.send(Request(host="localhost", target="/")))
    assert [type(event) for event in answer(sock, conn)] == [AcceptConnection]
    return sock, conn


def sockets_shown(pid: int) -> int:
    """In /proc/PID/fd of a process and its children."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]
    links = [str(fd.readlink()) for one in processes for fd in Path(f"/proc/{one.pid}/fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.parametrize(
    ("floor_server", "workers", "shown"),
    [("ws", 3, 997), ("http", 3, 997), ("ws 9", 9, 0)],
    indirect=["floor_server"],
)
def test_997_are_held_then_gone_without_time_wait(
    floor: Path, floor_server: tuple[int, int], workers: int, shown: int, request: pytest.FixtureRequest
) -> None:
    """Beyond eight processes nobody who looks through their descriptors meets them."""
    port, server = floor_server
    earlier = sockets_of(port, TIME_WAIT)  # of somebody who connected to whatever had this port before
    protocol = request.node.callspec.params["floor_server"].split()[0]
    command = [str(floor / "client"), str(port), "997", "101", str(workers), "3", protocol]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        try:
            assert select.select([client.stdout], [], [], 30)[0]
            figures = json.loads(client.stdout.readline())
            held = sockets_of(port, ESTABLISHED)
            at_the_client, at_the_server = sockets_shown(client.pid), sockets_shown(server)
            assert client.wait(30) == 0
        finally:
            client.kill()
    assert len(held) == 2 * 997  # both ends are on this machine
    listeners = 9 if workers == 9 else 2  # as many as processes
    assert (at_the_client, at_the_server - listeners) == (shown, shown)
    assert (figures["count"], figures["workers"]) == (997, workers)
    assert figures["per_s"] == pytest.approx(997 / figures["ramp_s"], rel=1e-3)
    assert figures["pss_bytes"] > 0
    assert sockets_of(port, TIME_WAIT) <= earlier


@ws
@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_ping_is_answered_with_its_payload(floor_server: tuple[int, int], size: int) -> None:
    sock, conn = upgraded(floor_server[0])
    with sock:
        payload = bytes(range(size))
        sock.sendall(conn.send(Ping(payload)))
        (pong,) = answer(sock, conn)
    assert isinstance(pong, Pong)
    assert bytes(pong.payload) == payload


@ws
def test_pings_in_one_segment_are_all_answered_and_messages_ignored(floor_server: tuple[int, int]) -> None:
    sock, conn = upgraded(floor_server[0])
    sent = [bytes([n]) * n for n in range(23)]
    with sock:
        sock.sendall(b"".join(conn.send(Ping(each)) + conn.send(BytesMessage(each)) for each in sent))
        pongs: list[object] = []
        while len(pongs) < len(sent):
            pongs += answer(sock, conn)
    assert [bytes(pong.payload) for pong in pongs if isinstance(pong, Pong)] == sent


@ws
@pytest.mark.parametrize(
    "frame",
    [b"\x88\x80abcd", b"\x89\x00", b"\x89\xfe\x00\x7eabcd", b"\x89\x85abcd"],
    ids=["close", "not masked", "longer than 125", "cut short"],
)
def test_a_close_frame_or_a_broken_one_ends_the_connection(
    floor_server: tuple[int, int], frame: bytes
) -> None:
    sock, _ = upgraded(floor_server[0])
    with sock:
        sock.sendall(frame)
        assert sock.recv(4096) == b""


@ws
def test_eof_is_answered_with_eof(floor_server: tuple[int, int]) -> None:
    sock, _ = upgraded(floor_server[0])
    with sock:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(4096) == b""


@ws
@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nSec-WebSocket-Key: short\r\n\r\n"]
)
def test_no_upgrade_without_a_whole_key(floor_server: tuple[int, int], head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", floor_server[0]), timeout=10) as sock:
        sock.sendall(head)
        assert sock.recv(4096) == b""


@http
def test_a_kept_alive_connection_is_answered_each_time(floor_server: tuple[int, int]) -> None:
    with socket.create_connection(("127.0.0.1", floor_server[0]), timeout=10) as sock:
        for _ in range(3):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")


@ws
def test_its_processes_end_with_it(floor_server: tuple[int, int]) -> None:
    _, pid = floor_server
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 2
    handles = [os.pidfd_open(int(child)) for child in children]
    try:
        os.kill(pid, 9)  # no handler runs: what ends them is PR_SET_PDEATHSIG
        deadline = time.monotonic() + 10
        for handle in handles:
            assert select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]
    finally:
        for handle in handles:
            os.close(handle)


def test_a_client_that_is_refused_says_so(floor: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can take the port
        command = [str(floor / "client"), str(free.getsockname()[1]), "23", "5", "2", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Connection refused" in done.stderr


@ws
def test_the_same_port_on_another_address_is_not_counted(floor_server: tuple[int, int]) -> None:
    port, _ = floor_server
    with (
        socket.create_server(("127.0.0.2", port)) as other,
        socket.create_connection(other.getsockname()),
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert len(sockets_of(port, ESTABLISHED)) == 2
