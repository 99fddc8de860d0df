"""What a worker is to open, and when: by its share, the stock, a rate."""

from typing import Any

import pytest

from connprobe.engine import counters
from connprobe.engine.goal import Goal
from connprobe.plan.stock import TICKET
from tasks import a_task, stock_of

NOW = 1000.0


class Made:
    def __init__(self, **given: Any) -> None:
        usual = {"goal": 10, "share": 10_000, "stock": -1, "interval_s": 0.0, "delay_s": 0.0}
        self.row = memoryview(bytearray(8 * counters.COLUMNS)).cast("Q")
        self.goal = Goal(a_task(**(usual | given)), self.row, NOW)

    def told(self) -> int:
        return int(self.row[counters.GOAL])


def test_without_a_rate_as_many_as_there_is_room_for() -> None:
    made = Made(goal=10)
    goal = made.goal
    assert (made.told(), goal.to_open, bool(goal)) == (10, 10, True)
    assert [goal.due(most, NOW) for most in (4, 0, 9, 9)] == [4, 0, 6, 0]
    assert (made.told(), goal.to_open, bool(goal)) == (10, 0, False)
    assert (goal.is_reached(9), goal.is_reached(10)) == (False, True)


def test_none_before_its_time() -> None:
    goal = Made(delay_s=2.0).goal
    assert (goal.due(9, NOW + 1.9), goal.due(9, NOW + 2.0)) == (0, 9)


def test_by_a_rate_one_after_the_other_and_little_is_caught_up() -> None:
    goal = Made(goal=1000, interval_s=0.01).goal
    assert [goal.due(99, NOW + at) for at in (0.0, 0.005, 0.0101, 0.0399)] == [1, 0, 1, 2]
    assert goal.due(1, NOW + 0.0701) == 1  # no more than there is room for
    assert goal.due(99, NOW + 0.0701) == 3
    assert 10 <= goal.due(99, NOW + 50) <= 11  # after a stall: what 0.1 s would have begun
    assert goal.due(99, NOW + 50) == 0


@pytest.mark.parametrize("interval_s", [0.0, 1e-6])
def test_the_stock_is_taken_when_its_own_are_begun_even_without_room(interval_s: float) -> None:
    made = Made(goal=1, stock=stock_of(TICKET, 7), interval_s=interval_s)
    goal, later = made.goal, NOW + 1
    assert (goal.due(1, later), made.told(), goal.is_reached(1)) == (1, 1, False)
    assert (goal.to_open, bool(goal)) == (0, True)
    assert (goal.due(0, later), made.told()) == (0, 1 + TICKET)
    assert (goal.due(TICKET, later), made.told()) == (TICKET, 1 + TICKET)
    assert not goal.is_reached(1 + TICKET)  # there may be more: nobody looked
    assert (goal.due(9, later), made.told(), bool(goal.stock)) == (7, 8 + TICKET, False)
    assert (bool(goal), goal.is_reached(8 + TICKET)) == (False, True)


def test_no_ticket_for_which_there_is_no_room() -> None:
    made = Made(goal=1, share=TICKET, stock=stock_of(TICKET))
    assert (made.goal.due(9, NOW), bool(made.goal), made.told()) == (1, False, 1)
    made = Made(goal=1, share=TICKET + 1, stock=stock_of(TICKET))
    assert (made.goal.due(9, NOW), made.told()) == (9, 1 + TICKET)


def test_a_goal_that_is_raised() -> None:
    made = Made(goal=3)
    goal = made.goal
    assert goal.due(9, NOW) == 3
    goal.raise_to(5, NOW + 1)
    assert (made.told(), goal.is_reached(4), goal.due(9, NOW + 1)) == (5, False, 2)
    goal.raise_to(9, NOW + 2, 0.5, 1.0)
    assert [goal.due(9, NOW + at) for at in (2.9, 3.0, 3.1, 3.5)] == [0, 1, 0, 1]
    goal.raise_to(12, NOW + 3.6)  # as fast as before, and at once
    assert goal.due(9, NOW + 3.6) == 5
    assert (made.told(), goal.is_reached(12)) == (12, True)


def test_a_rate_that_was_asked_for_is_the_most() -> None:
    goal = Made(goal=1, interval_s=2.0).goal
    assert goal.due(9, NOW) == 1
    goal.raise_to(5, NOW + 1, 0.5, 0.0)
    assert [goal.due(9, NOW + at) for at in (1.0, 1.9, 3.0)] == [1, 0, 1]


def test_a_goal_that_is_raised_keeps_to_the_rate() -> None:
    goal = Made(goal=1, interval_s=2.0).goal
    assert goal.due(9, NOW) == 1
    goal.raise_to(5, NOW + 1)
    assert [goal.due(9, NOW + at) for at in (1.9, 2.0)] == [0, 1]


def test_one_that_was_stopped() -> None:
    made = Made(goal=3, stock=stock_of(TICKET))
    made.goal.stop()
    assert (made.goal.due(9, NOW), bool(made.goal), made.told()) == (0, False, 3)
