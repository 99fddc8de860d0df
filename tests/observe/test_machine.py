"""Figures of the host, against amounts of work and memory that the tests make themselves."""

import os

import pytest

from connprobe.observe.machine import CpuTimes, available_memory, cpu_times, utilisation


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
