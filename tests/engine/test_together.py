"""Workers that are threads of one process: what each may open while others have some under way."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from connprobe.engine import counters, worker
from connprobe.engine.backoff import Backoff
from connprobe.engine.batches import Batches
from connprobe.engine.goal import Goal
from connprobe.engine.held import IN_FLIGHT
from connprobe.engine.together import Together
from connprobe.engine.worker import Worker
from tasks import a_task


class Flown:
    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number


def a_worker(concurrency: int, under_way: int, interval_s: float = 0.0) -> Worker:
    """Of which nothing else is there."""
    made = Worker.__new__(Worker)
    made.task = a_task(
        concurrency=concurrency, goal=77, share=99, stock=-1, interval_s=interval_s, delay_s=0.0
    )
    made.goal = Goal(made.task, memoryview(bytearray(8 * counters.COLUMNS)).cast("Q"), 0.0)
    made.part = worker.TOGETHER.join(concurrency)
    has(made, under_way)
    return made


def has(one: Worker, under_way: int) -> None:
    one.flights = Flown(under_way)  # type: ignore[assignment]
    one.part.tell(under_way)


@pytest.fixture(autouse=True)
def together(monkeypatch: pytest.MonkeyPatch) -> Together:
    made = Together()
    made.opened_at = math.inf  # this very moment, however slow the test is
    monkeypatch.setattr(worker, "TOGETHER", made)
    return made


def test_one_alone_has_its_own() -> None:
    one = a_worker(47, 7)
    assert one._room() == 40
    for under_way, room in ((36, 11), (37, 0), (46, 0)):  # too few for a burst, until a quarter is free
        has(one, under_way)
        assert one._room() == room


def test_several_share_what_all_of_them_may() -> None:
    several = _, other, third = a_worker(48, 0), a_worker(47, 60), a_worker(47, 80)
    for under_way, room in ((80, 0), (48, 0), (47, 35)):  # a quarter of 142 is to be free
        has(third, under_way)
        assert [each._room() for each in several] == [room] * 3
    has(third, 20)
    assert third._room() == 62
    other.part.leave()
    assert third._room() == 75  # 95, of which 20 are under way


def test_a_burst_of_another_needs_room_for_a_whole_one() -> None:
    one, other = a_worker(200, 0), a_worker(200, 0)
    for under_way, room in ((128, 128), (300, 100), (301, 0)):
        has(other, under_way)
        assert one._room() == room


def test_what_was_told_is_true_again_before_others_may_ask(together: Together) -> None:
    """Of a burst some may have failed at once."""
    one: Any = a_worker(200, 0)
    one._patience = lambda: 0.0
    one.part.tell(77)

    class Polled:
        def poll(self, patience_s: float, most: int) -> list[tuple[int, int]]:
            assert together.under_way == 7
            return [(3, 1)]

    one.epoll, one.flights = Polled(), Flown(7)
    one.flights.batches = Batches()
    with worker.TURN:
        assert list(one._events()) == [(3, 1)]


def test_what_is_being_opened_is_told_until_it_is_begun(together: Together) -> None:
    one: Any = a_worker(200, 0)
    one.backoff = Backoff(0)
    one.tally, one.held = SimpleNamespace(started=0), SimpleNamespace(state=bytearray(9))
    other = a_worker(200, 290)

    def opens(attempts: list[int], *, paced: bool) -> tuple[list[int], list[tuple[int, Any]]]:
        assert (other._under_way(), len(attempts), paced) == (367, 77, False)
        assert (other._room(), together.opened_at) == (0, math.inf)  # 33 of 400 are too few
        one.flights = Flown(7)
        return [3], []

    one.flights.open = opens
    one._open_some(math.inf)
    assert (one._under_way(), one.tally.started, one.held.state[3]) == (297, 7 + 70, IN_FLIGHT)
    assert other._room() == 103


def test_a_few_do_where_none_could_begin_in_a_while(together: Together) -> None:
    one, other = a_worker(500, 470), a_worker(500, 480)  # that many wait for an answer, perhaps in vain
    assert (one._room(), other._room()) == (0, 0)
    together.opened_at = 0.0
    assert (one._room(), other._room()) == (0, 0)  # 50 of 1,000: too few
    has(one, 450)
    assert (one._room(), other._room()) == (70, 70)
    together.opened_at = math.inf  # one of them has just begun some
    assert (one._room(), other._room()) == (0, 0)


def test_no_more_than_that_where_one_has_left() -> None:
    """With a rate, any number begins; less than none would have the loop spin."""
    one = a_worker(3, 11, interval_s=0.001)
    a_worker(2, 1, interval_s=0.001)
    assert one._room() == 0
