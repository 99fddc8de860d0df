"""Against a queue whose every arrival and departure is known."""

from collections import deque
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.queueorder import QueueOrder

Event = tuple[str, int]  # what happens, and microseconds since what happened before


def played(events: Sequence[Event]) -> tuple[list[tuple[int, int]], list[int]]:
    """(what the order says of each one that is gone, how long each one waited that was taken and is known).

    unseen: one arrives, and the look at it is lost.
    """
    order, queue, now = QueueOrder(), deque[tuple[int, bool]](), 0
    found: list[tuple[int, int]] = []
    taken: list[int] = []
    for kind, after in events:
        now += after
        if kind == "taken":
            came, known = queue.popleft() if queue else (0, False)
            if known:
                taken.append(now - came)
            continue
        if kind in ("arrived", "unseen"):
            queue.append((now, kind == "arrived"))
        if kind != "unseen":
            oldest = queue[0][0] if queue else now + 1
            if kind == "arrived":
                order.arrived(now)
            found += order.look(now, oldest)
    return found, taken


def within_bounds(happened: Sequence[Event]) -> None:
    found, taken = played([*happened, ("read", 1)])
    assert len(found) == len(taken)
    for (least, most), waited in zip(found, taken, strict=True):
        assert least <= waited <= most


def events(*kinds: str) -> st.SearchStrategy[list[Event]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(1, 5000)), min_size=1, max_size=200)


@given(events("arrived", "taken", "read"))
def test_each_wait_is_within_its_bounds(happened: list[Event]) -> None:
    within_bounds(happened)


@given(events("arrived", "unseen", "taken", "read"))
def test_so_it_is_where_looks_are_lost(happened: list[Event]) -> None:
    within_bounds(happened)


def test_a_server_that_takes_one_each_millisecond() -> None:
    """As many arrive: each look comes as one is taken, so the bounds are as near as the arrivals."""
    events = [("arrived", 1000), ("arrived", 1), *[("taken", 999), ("arrived", 1)] * 50]
    found, taken = played(events)
    assert [most - least for least, most in found][1:] == [1000] * 49
    assert len(taken) == 50


def test_nobody_is_told_before_a_look_says_so() -> None:
    assert played([("arrived", 5), ("taken", 10)]) == ([], [10])


def test_who_is_gone_as_it_arrives_has_waited_no_time() -> None:
    order = QueueOrder()
    order.arrived(100)
    assert order.look(100, 101) == [(0, 0)]


def test_looks_that_come_out_of_order_give_no_wait_below_zero() -> None:
    """From several CPUs they may, by a microsecond or two."""
    order = QueueOrder()
    for time_us in (100, 99):
        order.arrived(time_us)
        assert order.look(time_us, time_us) == []
    assert order.look(98, 200) == [(0, 0), (0, 0)]


def test_who_waits_as_the_listener_is_closed_is_never_told() -> None:
    order = QueueOrder()
    order.arrived(100)
    order.closed()
    assert order.look(200, 201) == []
