"""Counters across real forks."""

import os

import pytest

from connprobe.fleet.shared import SharedTable

ROWS, COLUMNS, TIMES = 7, 5, 1009


def test_rows_are_apart_and_totals_add_up() -> None:
    table = SharedTable(ROWS, COLUMNS)
    pids = []
    for index in range(ROWS):
        pid = os.fork()
        if pid == 0:
            try:
                row = SharedTable(ROWS, COLUMNS, table.fd).row(index)
                for _ in range(TIMES):
                    for column in range(COLUMNS):
                        row[column] += index * column
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0) == (pid, 0)
    for column in range(COLUMNS):
        assert table.column(column) == [index * column * TIMES for index in range(ROWS)]
        assert table.total(column) == sum(range(ROWS)) * column * TIMES
    os.close(table.fd)
    assert table.total(1) == sum(range(ROWS)) * TIMES  # the mapping outlives its descriptor


def test_64_bits_and_no_more() -> None:
    table = SharedTable(1, 2)
    row = table.row(0)
    row[1] = 2**64 - 1
    assert table.column(1) == [2**64 - 1]
    assert table.column(0) == [0]
    for wrong in (-1, 2**64):
        with pytest.raises((ValueError, OverflowError)):
            row[0] = wrong
    os.close(table.fd)


def test_a_row_ends_where_the_next_begins() -> None:
    table = SharedTable(3, 4)
    assert [len(table.row(index)) for index in range(3)] == [4, 4, 4]
    with pytest.raises(IndexError):
        table.row(1)[4] = 1
    assert table.total(0) == 0
    os.close(table.fd)


def test_nobody_is_a_table_too() -> None:
    table = SharedTable(0, 9)
    assert (table.column(3), table.total(3)) == ([], 0)
    os.close(table.fd)
