import os
from collections.abc import Iterator

import pytest

from connprobe.causes import CAUSES, INDEX
from connprobe.engine import counters
from connprobe.engine.counters import read_handshakes, read_messages, read_ramp_s, read_totals
from connprobe.fleet.shared import SharedTable
from connprobe.plan.histogram import BUCKETS


@pytest.fixture
def table() -> Iterator[SharedTable]:
    """Three workers with a share of 100 each: 90, 80 and 70 established, some held, some failed."""
    made = SharedTable(3, counters.COLUMNS)
    for index in range(3):
        row = made.row(index)
        row[counters.STARTED] = 100
        row[counters.ESTABLISHED] = 90 - 10 * index
        row[counters.HELD] = 60
        row[counters.IN_FLIGHT] = 3
        row[counters.WAITING] = 2
        row[counters.HANDSHAKE_MAX_US] = 1000 * (index + 1)
        row[counters.FAILED + INDEX["refused"]] = 7
        row[counters.DROPPED + INDEX["eof"]] = 5
    yield made
    os.close(made.fd)


def test_columns_do_not_overlap() -> None:
    plain = [value for name, value in vars(counters).items() if name.isupper() and isinstance(value, int)]
    plain = [value for value in plain if value < counters.FAILED]
    assert sorted(plain) == list(range(counters.FAILED))
    assert counters.FAILED + 2 * len(CAUSES) + 2 * BUCKETS == counters.COLUMNS
    assert counters.MESSAGES - counters.HANDSHAKES == BUCKETS


def test_totals(table: SharedTable) -> None:
    totals = read_totals(table, {})
    assert (totals.established, totals.held, totals.in_flight, totals.waiting) == (240, 180, 9, 6)
    assert totals.handshake_max_us == 3000
    assert (totals.failures, totals.drops) == ({"refused": 21}, {"eof": 15})
    assert (totals.failed, totals.dropped) == (21, 15)


@pytest.mark.parametrize("lost", [{1: 100}, {0: 100, 2: 100}, {0: 100, 1: 100, 2: 100}])
def test_what_a_lost_worker_held_was_dropped_and_the_rest_of_its_share_failed(
    table: SharedTable, lost: dict[int, int]
) -> None:
    before, totals = read_totals(table, {}), read_totals(table, lost)
    assert totals.held == before.held - 60 * len(lost)
    assert totals.drops["worker_lost"] == 60 * len(lost)
    assert totals.in_flight == 3 * (3 - len(lost))
    for index, share in lost.items():
        assert table.row(index)[counters.HELD] == 60  # reading changes nothing
        assert share == 100
    expected = sum(100 - (90 - 10 * index) - 7 for index in lost)
    assert totals.failures["worker_lost"] == expected
    if len(lost) == 3:
        assert totals.established + totals.failed == 300


def test_handshakes_are_summed(table: SharedTable) -> None:
    for index in range(3):
        table.row(index)[counters.HANDSHAKES + 23] = index + 1
        table.row(index)[counters.MESSAGES - 1] = 1
        table.row(index)[counters.COLUMNS - 1] = 5
    summed = read_handshakes(table)
    assert len(summed) == BUCKETS
    assert (summed[23], summed[-1], sum(summed)) == (6, 3, 9)
    assert sum(read_messages(table)) == read_messages(table)[-1] == 15


def test_ramp(table: SharedTable) -> None:
    assert read_ramp_s(table, 10**10) == 0.0
    for index in range(3):
        table.row(index)[counters.BEGAN_NS] = 10**9 * (1 + index)
    assert read_ramp_s(table, 9 * 10**9) == 8.0
    for index in range(3):
        table.row(index)[counters.RAMPED_NS] = 10**9 * (4 + index)
    assert read_ramp_s(table, 9 * 10**9) == 5.0
