"""Workers that are threads of one process: what each may open while others have some under way."""

from collections.abc import Iterator
from typing import Any

import pytest

from connprobe.engine import worker
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
    made.interval_s = interval_s
    return made


@pytest.fixture
def all_of_it() -> Iterator[list[Worker]]:
    yield worker.ALL
    worker.ALL.clear()


def test_one_alone_has_its_own(all_of_it: list[Worker]) -> None:
    one = a_worker(47, 7)
    all_of_it.append(one)
    assert one._room() == 40
    one.flights = Flown(46)  # type: ignore[assignment]
    assert one._room() == 0  # until there is room for a few


def test_several_share_what_all_of_them_may(all_of_it: list[Worker]) -> None:
    one, other, third = a_worker(48, 0), a_worker(47, 60), a_worker(47, 80)
    all_of_it.extend((one, other, third))
    assert [each._room() for each in all_of_it] == [0, 0, 0]  # 2 of 142: too few for a burst
    third.flights = Flown(70)  # type: ignore[assignment]
    assert [each._room() for each in all_of_it] == [12, 12, 12]


def test_no_more_than_that_where_one_has_left(all_of_it: list[Worker]) -> None:
    """With a rate, any number begins; less than none would have the loop spin."""
    one = a_worker(3, 11, interval_s=0.001)
    all_of_it.extend((one, a_worker(2, 1, interval_s=0.001)))
    assert one._room() == 0
