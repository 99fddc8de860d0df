"""Figures of the host, against amounts of work, memory and sockets that the tests make themselves."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from connprobe.observe.machine import CpuTimes, available_memory, cpu_times, utilisation

Start = Callable[..., Any]

# In a network namespace of its own: 23 IPv4 and 7 IPv6 connections, of which the IPv4 ones are then closed.
SOCKETS = """
import json, socket, time
from connprobe.observe.machine import socket_counts
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


def test_available_memory_is_bytes_of_this_machine() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 << 20 < available_memory() <= total


def test_cpu_time_burnt_is_user_time() -> None:
    before, own = cpu_times(), os.times().user
    while os.times().user - own < 0.4:
        sum(range(100_000))
    after = cpu_times()
    assert after.user - before.user >= 0.38  # two clocks of 10 ms each
    shares = utilisation(before, after)
    assert shares is not None
    assert sum(shares) == pytest.approx(1.0)
    assert shares.user > 0


def test_shares_of_two_snapshots() -> None:
    before = CpuTimes(10.0, 20.0, 30.0, 0.0, 100.0)
    after = CpuTimes(11.0, 21.5, 30.5, 0.0, 102.0)
    assert utilisation(before, after) == (0.2, 0.3, 0.1, 0.0, 0.4)
    assert utilisation(before, before) is None
    backwards = utilisation(before, after._replace(idle=99.0))
    assert backwards is not None
    assert backwards.idle == 0.0
    assert sum(backwards) == pytest.approx(1.0)


def test_sockets_are_counted_by_kind(start: Start, as_root: None) -> None:
    within = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    none, opened, closed = start(SOCKETS, within=within).said
    assert (none["tcp_inuse"], none["time_wait"]) == (0, 0)
    assert (opened["tcp_inuse"], opened["time_wait"]) == (2 * 23 + 2 * 7 + 2, 0)
    assert opened["alloc"] >= 2 * 23 + 2 * 7 + 2
    assert (closed["tcp_inuse"], closed["time_wait"]) == (2 * 7 + 2, 23)
