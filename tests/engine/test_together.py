"""Workers that are threads of one process: what each may open while others have some under way."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from connprobe.engine import worker
from connprobe.engine.backoff import Backoff
from connprobe.engine.held import IN_FLIGHT
from connprobe.engine.stock import Stock
from connprobe.engine.task import Task
from connprobe.engine.worker import Worker


class Flown:
    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number


def a_worker(concurrency: int, under_way: int, interval_s: float = 0.0) -> Worker:
    """Of which nothing else is there."""
    made = Worker.__new__(Worker)
    values: dict[str, Any] = dict.fromkeys(Task._fields)
    made.task = Task(**values)._replace(concurrency=concurrency)
    made.flights = Flown(under_way)  # type: ignore[assignment]
    made.interval_s, made.beginning = interval_s, 0
    made.opened_at = math.inf  # this very moment, however slow the test is
    return made


@pytest.fixture
def all_of_it() -> Iterator[list[Worker]]:
    yield worker.ALL
    worker.ALL.clear()


def test_one_alone_has_its_own(all_of_it: list[Worker]) -> None:
    one = a_worker(47, 7)
    all_of_it.append(one)
    assert one._room() == 40
    for under_way, room in ((36, 11), (37, 0), (46, 0)):  # too few for a burst, until a quarter is free
        one.flights = Flown(under_way)  # type: ignore[assignment]
        assert one._room() == room


def test_several_share_what_all_of_them_may(all_of_it: list[Worker]) -> None:
    one, other, third = a_worker(48, 0), a_worker(47, 60), a_worker(47, 80)
    all_of_it.extend((one, other, third))
    for under_way, room in ((80, 0), (48, 0), (47, 35)):  # a quarter of 142 is to be free
        third.flights = Flown(under_way)  # type: ignore[assignment]
        assert [each._room() for each in all_of_it] == [room] * 3


def test_those_that_another_is_opening_count(all_of_it: list[Worker]) -> None:
    one, other = a_worker(200, 0), a_worker(200, 0)
    all_of_it.extend((one, other))
    for beginning, room in ((128, 128), (300, 100), (301, 0)):
        other.beginning = beginning
        assert one._room() == room


def test_what_is_being_opened_is_told_until_it_is_begun(all_of_it: list[Worker]) -> None:
    one: Any = a_worker(200, 0)
    one.stock, one.backoff, one.to_open, one.next_open = Stock(-1), Backoff(0), 77, 0.0
    one.tally, one.held = SimpleNamespace(started=0), SimpleNamespace(state=bytearray(9))
    all_of_it.extend((one, a_worker(200, 0)))

    def opens(attempts: list[int], *, paced: bool) -> tuple[list[int], list[tuple[int, Any]]]:
        assert (one._under_way(), len(attempts), paced) == (77, 77, False)
        one.flights = Flown(7)
        return [3], []

    one.flights.open = opens
    one._open_some(1.0)
    assert (one._under_way(), one.tally.started, one.held.state[3]) == (7, 77, IN_FLIGHT)


def test_a_few_do_where_none_could_begin_in_a_while(all_of_it: list[Worker]) -> None:
    one, other = a_worker(500, 470), a_worker(500, 480)  # that many wait for an answer, perhaps in vain
    all_of_it.extend((one, other))
    assert (one._room(), other._room()) == (0, 0)
    one.opened_at = 0.0
    assert (one._room(), other._room()) == (0, 0)  # the other has just begun some
    other.opened_at = 0.0
    assert (one._room(), other._room()) == (0, 0)  # 50 of 1,000: too few
    one = all_of_it[0] = a_worker(500, 450)
    one.opened_at = 0.0
    assert (one._room(), other._room()) == (70, 70)


def test_no_more_than_that_where_one_has_left(all_of_it: list[Worker]) -> None:
    """With a rate, any number begins; less than none would have the loop spin."""
    one = a_worker(3, 11, interval_s=0.001)
    all_of_it.extend((one, a_worker(2, 1, interval_s=0.001)))
    assert one._room() == 0
