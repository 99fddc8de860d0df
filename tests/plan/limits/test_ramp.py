"""Steps of a ramp, and how workers share them."""

from hypothesis import given
from hypothesis import strategies as st

from connprobe.model import Limit
from connprobe.plan.limits.ramp import is_near, next_goal, shares, steps
from made import a_limit


@given(st.integers(1, 10**6), st.integers(1, 100))
def test_a_ramp_ends_at_the_count_and_never_goes_back(count: int, number: int) -> None:
    found = steps(count, number)
    assert found[-1] == count
    assert list(found) == sorted(set(found))
    assert len(found) == min(number, count)
    assert max(b - a for a, b in zip((0, *found), found, strict=False)) <= -(-count // number)


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=30), st.integers(0, 10**6))
def test_workers_share_all_that_there_is_room_for(capacities: list[int], total: int) -> None:
    found = shares(total, capacities)
    assert sum(found) == min(total, sum(capacities))
    assert all(0 <= share <= room for share, room in zip(found, capacities, strict=True))


@given(
    st.lists(st.integers(1, 20_000), min_size=1, max_size=30), st.integers(0, 10**5), st.integers(0, 10**4)
)
def test_a_later_goal_takes_nothing_back(capacities: list[int], total: int, more: int) -> None:
    before = shares(total, capacities)
    after = shares(total + more, capacities, before)
    assert sum(after) == min(total + more, sum(capacities))
    assert all(old <= new for old, new in zip(before, after, strict=True))


def climb(predicted: Limit | None, held: int, most: int) -> list[int]:
    goals: list[int] = []
    while held < most and len(goals) < 1000:
        held = next_goal(held, predicted, most)
        goals.append(held)
    return goals


def test_memory_is_approached_by_small_steps_from_seven_tenths_on() -> None:
    goals = climb(a_limit("heap", 8000), 1500, 10_000)
    assert goals[:13] == [*range(1900, 5600, 400), 5600, 5680, 5760]
    assert [is_near(goal, a_limit("heap", 8000)) for goal in goals[:13]] == [False] * 10 + [True] * 3
    assert goals[-1] == 10_000


def test_a_capacity_kept_to_the_letter_is_approached_late() -> None:
    goals = climb(a_limit("nofile", 5000), 1000, 6000)
    assert goals[:14] == list(range(1250, 4501, 250))
    assert goals[14] - goals[13] == 50


@given(st.one_of(st.none(), st.integers(0, 10**6)), st.integers(1, 10**5), st.integers(1, 10**6))
def test_every_climb_gets_to_the_most(predicted: int | None, held: int, most: int) -> None:
    named = None if predicted is None else a_limit("heap", max(predicted, most // 5))
    goals = climb(named, min(held, most - 1), most)
    assert goals[-1] == most
    assert goals == sorted(set(goals))
