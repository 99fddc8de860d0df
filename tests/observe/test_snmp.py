"""Counters of a namespace in which a test makes known events, and texts of odd kernels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.observe.snmp import COUNTERS, deltas, parse_counters, read_counters
from running import eventually

Start = Callable[..., Any]
NETNS = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")

# 23 connections to a server and 7 to a closed port; then all ends are reset.
EVENTS = """
import json, os, socket, struct
print(os.getpid(), flush=True)
input()
server = socket.create_server(("127.0.0.1", 0))
ends = []
for _ in range(23):
    ends += [socket.create_connection(server.getsockname()), server.accept()[0]]
with socket.socket() as reserved:
    reserved.bind(("127.0.0.1", 0))
    for _ in range(7):
        try:
            socket.create_connection(reserved.getsockname())
        except ConnectionRefusedError:
            pass
for client in ends[::2]:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
print(1, flush=True)
input()
"""


def test_known_events_in_another_processs_namespace(start: Start, as_root: None) -> None:
    program = start(EVENTS, within=NETNS)
    pid = program.said
    before = read_counters(pid)
    assert program.ask("") == 1
    # A reset may still be on its way over loopback when the program has its answer.
    assert eventually(lambda: deltas(before, read_counters(pid))["EstabResets"] == 46)  # both ends of each
    after = read_counters(pid)
    moved = deltas(before, after)
    assert (moved["ActiveOpens"], moved["PassiveOpens"], moved["AttemptFails"]) == (30, 23, 7)
    assert moved["OutRsts"] == 23 + 7  # the closed port answers with one as well
    assert moved["RetransSegs"] == moved["ListenOverflows"] == moved["TCPAbortOnMemory"] == 0
    assert after["CurrEstab"] == 0
    program.end()
    with pytest.raises(OSError, match="No such"):
        read_counters(pid)


def test_every_counter_is_one_of_this_kernels() -> None:
    """A misspelt name would be None for ever. This kernel's own list is the judge."""
    names = set(Path("/proc/net/snmp").read_text().split()) | set(
        Path("/proc/net/netstat").read_text().split()
    )
    young = {"TCPReqQFullDoCookies", "TCPRcvQDrop", "TCPMemoryPressuresChrono"}  # later than Linux 4.4
    assert set(COUNTERS) - names <= young
    assert deltas(read_counters(), read_counters()).keys() == set(COUNTERS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tcp: MaxConn ActiveOpens\nTcp: -1 5\n", {"ActiveOpens": 5}),
        ("TcpExt: ListenOverflows ListenDrops\nTcpExt: 3\n", {}),  # cut short: nothing is guessed
        ("TcpExt: ListenOverflows\n", {}),
        ("Udp: InDatagrams\nUdp: 3\nIp: ListenDrops\nIp: 4\n", {}),
        ("TcpExt: A B\nIpExt: A\nIpExt: 9\nTcpExt: 1 x\n", {"A": 1}),  # interleaved
        ("TcpExt: A\nTcpExt: 18446744073709551615\n", {"A": (1 << 64) - 1}),
    ],
)
def test_texts(text: str, expected: dict[str, int]) -> None:
    assert parse_counters(text) == expected


def test_a_counter_that_is_missing_or_ran_backwards_is_unknown() -> None:
    moved = deltas({"ListenDrops": 5, "OutRsts": 9}, {"ListenDrops": 28, "OutRsts": 8, "RetransSegs": 4})
    assert moved["ListenDrops"] == 23
    assert moved["OutRsts"] is None
    assert moved["RetransSegs"] is None
    assert moved["ListenOverflows"] is None


@given(st.text() | st.text(alphabet="TcpExt: A\n0123456789-²"))
def test_any_text_is_read(text: str) -> None:
    assert all(value >= 0 for value in parse_counters(text).values())
