"""Packets that a test sends over loopback, and softnet_stat and stat files of kernels old and new."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.observe.softnet import (
    SoftirqShare,
    SoftnetCounts,
    parse_cpu_ticks,
    parse_softnet,
    read_cpu_ticks,
    read_softnet,
    softirq_share,
    softnet_delta,
)

NEW = "000000ff 00000002 00000003 " + "00000000 " * 9 + "00000004 00000000 00000000\n"  # of CPU 4
OLD = "000000ff 00000002 00000003 " + "00000000 " * 6 + "\n"


def test_packets_over_loopback_are_counted() -> None:
    before = read_softnet()
    with socket.socket(type=socket.SOCK_DGRAM) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        for _ in range(1009):
            sender.sendto(b"x", receiver.getsockname())
            receiver.recv(1)
    moved = softnet_delta(before, read_softnet())
    assert moved is not None
    assert 1009 <= moved.processed < 1 << 31


def test_the_real_softirq_share_is_one() -> None:
    before = read_cpu_ticks()
    assert before
    while (share := softirq_share(before, read_cpu_ticks())) is None:
        sum(range(10_000))
    assert 0.0 <= share.mean <= share.busiest <= 1.0
    assert share.busiest_cpu in before


def test_rows_are_of_cpus() -> None:
    assert parse_softnet(NEW) == {4: (255, 2, 3)}
    assert parse_softnet(OLD + OLD) == {0: (255, 2, 3), 1: (255, 2, 3)}
    assert parse_softnet("not hex\n" + OLD + "00000001 00000002\n\n") == {1: (255, 2, 3)}


def test_a_counter_that_ran_over_and_a_cpu_that_went_offline() -> None:
    before = {0: SoftnetCounts((1 << 32) - 3, 5, 0), 1: SoftnetCounts(7, 7, 7)}
    after = {0: SoftnetCounts(20, 5, 1), 2: SoftnetCounts(9, 9, 9)}
    assert softnet_delta(before, after) == (23, 0, 1)
    assert softnet_delta(before, {}) is None


def test_the_share_of_the_busiest_cpu() -> None:
    text = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 10 0 10 60 0 0 20 0 0 0\ncpu1 0 0 0 100 0 0 0 0 5 5\nintr 1\n"
    assert parse_cpu_ticks(text) == {0: (20, 100), 1: (0, 100)}
    zero = {0: (0, 0), 1: (0, 0)}
    assert softirq_share(zero, parse_cpu_ticks(text)) == SoftirqShare(0.1, 0.2, 0)
    assert softirq_share(zero, zero) is None
    assert softirq_share({0: (0, 0), 1: (50, 0)}, {0: (30, 100), 1: (40, 100)}) == SoftirqShare(0.3, 0.3, 0)


@pytest.mark.parametrize(
    "text", ["", "cpu\n", "cpu0 1 2 3\n", "cpu0 1 2 3 4 5 6 x\n", "cpux 1 2 3 4 5 6 7\n"]
)
def test_lines_that_are_no_cpu(text: str) -> None:
    assert parse_cpu_ticks(text) == {}


@given(st.text() | st.text(alphabet="cpu 0123456789abcdef-_\n²"))
def test_any_text_is_read(text: str) -> None:
    for counts in parse_softnet(text).values():
        assert min(counts) >= 0
    for soft, total in parse_cpu_ticks(text).values():
        assert 0 <= soft <= total
