"""The arithmetic of overflows: bounds that hold whatever the counters say, and the sentence for each case."""

from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.acceptqueue import capacity, capacity_from, reconcile_overflows

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
