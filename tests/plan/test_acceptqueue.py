"""The arithmetic of overflows: bounds that hold whatever the counters say, and the sentence for each case."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.acceptqueue import Ahead, capacity, capacity_from, reconcile_overflows

counts = st.integers(0, 30) | st.integers(0, 1 << 40)


def test_one_more_than_the_backlog_may_wait() -> None:
    assert capacity(3) == 4


def test_what_bounds_the_queue() -> None:
    assert capacity_from(3, 4096).startswith("backlog argument")
    assert capacity_from(4096, 4096).startswith("net.core.somaxconn: 4096")
    assert "128 now" in capacity_from(4096, 128)
    assert "whichever is smaller" in capacity_from(128, None)


@given(overflows=st.tuples(counts, counts), twice=counts, otherwise=st.tuples(counts, counts), rest=counts)
def test_the_truth_lies_between_the_bounds(
    overflows: tuple[int, int], twice: int, otherwise: tuple[int, int], rest: int
) -> None:
    """As the kernel counts: ours and others' overflows, other drops of either, and what sk_drops adds."""
    ours, others = overflows
    namespace_overflows = ours + others
    namespace_drops = namespace_overflows + otherwise[0] + otherwise[1]
    sk_drops = ours + min(twice, ours) + otherwise[0] + rest
    other_sk_drops = others + otherwise[1]
    found = reconcile_overflows(sk_drops, other_sk_drops, namespace_overflows, namespace_drops)
    assert found.low <= ours <= found.high
    assert found.text
    if other_sk_drops == 0:
        assert found.exact
    unknown = reconcile_overflows(sk_drops, None, namespace_overflows, namespace_drops)
    assert unknown.low <= ours <= unknown.high


@given(counts, st.none() | counts, st.none() | counts, st.none() | counts)
def test_any_counters_have_bounds_and_a_sentence(
    sk_drops: int, other: int | None, overflows: int | None, drops: int | None
) -> None:
    """Also those that cannot be: the files are not read at one moment."""
    found = reconcile_overflows(sk_drops, other, overflows, drops)
    assert 0 <= found.low <= found.high <= sk_drops
    assert found.text


def test_a_difference_is_explained() -> None:
    assert reconcile_overflows(19, 0, 19, 19) == (
        19,
        19,
        "sk_drops, ListenOverflows and ListenDrops agree on 19",
    )
    assert reconcile_overflows(61, 0, 19, 19)[:2] == (19, 19)
    assert "42 above ListenDrops" in reconcile_overflows(61, 0, 19, 19).text
    assert reconcile_overflows(19, 7, 26, 26)[:2] == (19, 19)
    assert "7 of the network namespace's 26" in reconcile_overflows(19, 7, 26, 26).text
    assert reconcile_overflows(23, 0, 0, 19)[:2] == (0, 0)
    assert "19 ListenDrops are no overflows" in reconcile_overflows(23, 0, 0, 19).text
    assert reconcile_overflows(5, 0, None, None)[:2] == (0, 5)


turns = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()))


@given(first=st.tuples(st.integers(0, 9), st.integers(0, 9)), of_a=turns, of_b=turns)
def test_none_of_those_ahead_is_taken_for_accepted_while_it_waits(
    first: tuple[int, int], of_a: Sequence[tuple[int, int, bool]], of_b: Sequence[tuple[int, int, bool]]
) -> None:
    """Two queues, first in first out; True of a turn is one of ours."""
    queues = [[True] * length for length in first]
    ahead = Ahead(dict(enumerate(first)))
    assert ahead.left == sum(first)
    for listener, turns_of_one in enumerate((of_a, of_b)):
        for arrived, accepted, looked in turns_of_one:
            queue = queues[listener]
            queue += [False] * arrived
            del queue[:accepted]
            if looked:
                was = ahead.left
                assert ahead.see({0: len(queues[0]), 1: len(queues[1])}) == (ahead.left < was)
                assert ahead.left >= sum(map(sum, queues))
    ahead.see({0: len(queues[0]), 1: len(queues[1])})
    was = ahead.left
    assert ahead.see({}) == (was > 0)
    assert ahead.left == 0


def test_those_behind_do_not_hide_that_those_ahead_were_taken() -> None:
    ahead = Ahead({7: 5})
    assert not ahead.see({7: 9})
    assert ahead.see({7: 6})
    assert ahead.left == 2
    assert not ahead.see({7: 12})
    assert ahead.see({7: 10})
    assert ahead.left == 0


def test_a_queue_that_is_stuck_is_not_passed_by_another_that_moves() -> None:
    ahead = Ahead({1: 4, 2: 4})
    assert ahead.see({1: 0, 2: 5})
    for _ in range(9):
        assert not ahead.see({1: 0, 2: 5})
        assert not ahead.see({1: 8, 2: 5})
    assert ahead.left == 4
