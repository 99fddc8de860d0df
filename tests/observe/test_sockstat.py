"""Sockets that the tests open and close themselves, and files of older and broken kernels."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.observe.sockstat import parse_sockstat, read_socket_counts, socket_counts

Start = Callable[..., Any]

# In a network namespace of its own: 23 IPv4 and 7 IPv6 connections, of which the IPv4 ones are then closed.
SOCKETS = """
import json, socket, time
from connprobe.observe.sockstat import read_socket_counts as socket_counts
counts = [socket_counts()]
kept = []
for host, family, count in (("127.0.0.1", socket.AF_INET, 23), ("::1", socket.AF_INET6, 7)):
    listener = socket.create_server((host, 0), family=family)
    address = listener.getsockname()[:2]
    ends = [(socket.create_connection(address), listener.accept()[0]) for _ in range(count)]
    kept.append((listener, ends))
counts.append(socket_counts())
for client, server in kept[0][1]:
    client.close(), server.close()
deadline = time.monotonic() + 10
while socket_counts().time_wait < 23 and time.monotonic() < deadline:
    pass
counts.append(socket_counts())
print(json.dumps([count._asdict() for count in counts]))
"""


def test_sockets_are_counted_by_kind(start: Start, as_root: None) -> None:
    within = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    none, opened, closed = start(SOCKETS, within=within).said
    assert (none["tcp_inuse"], none["time_wait"]) == (0, 0)
    assert (opened["tcp_inuse"], opened["time_wait"]) == (2 * 23 + 2 * 7 + 2, 0)
    assert opened["alloc"] >= 2 * 23 + 2 * 7 + 2
    assert (closed["tcp_inuse"], closed["time_wait"]) == (2 * 7 + 2, 23)


def test_another_processs_namespace(start: Start, as_root: None) -> None:
    code = (
        "import os, socket; kept = [socket.create_server(('127.0.0.1', 0)) for _ in range(23)]\n"
        "print(os.getpid(), flush=True); input()"
    )
    within = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    program = start(code, within=within)
    assert read_socket_counts(program.said).tcp_inuse == 23
    program.end()
    with pytest.raises(OSError, match="No such"):
        read_socket_counts(program.said)


MODERN = """sockets: used 18
TCP: inuse 23 orphan 1 tw 1066 alloc 31 mem 8
UDP: inuse 0 mem 0
FRAG: inuse 0 memory 0
"""


def test_both_families_are_summed() -> None:
    assert socket_counts(MODERN, "TCP6: inuse 7\nUDP6: inuse 2\n") == (30, 1066, 1, 31, 8)
    assert socket_counts(MODERN) == (23, 1066, 1, 31, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, None, None, None, None)),
        ("TCP: inuse 3\n", (3, None, None, None, None)),
        ("TCP: inuse 3 orphan\n", (3, None, None, None, None)),
        ("TCP: inuse x tw 2 mem -1\n", (None, 2, None, None, -1)),  # mem runs below 0 for a moment
        ("TCP inuse 3\nTCP6: inuse 7\n", (None, None, None, None, None)),
    ],
)
def test_what_is_not_told_is_unknown(text: str, expected: tuple[int | None, ...]) -> None:
    assert socket_counts(text) == expected


@given(st.text() | st.text(alphabet="TCP6: inuse\n0123456789-²"))
def test_any_text_is_read(text: str) -> None:
    for figures in parse_sockstat(text).values():
        assert all(isinstance(value, int) for value in figures.values())
