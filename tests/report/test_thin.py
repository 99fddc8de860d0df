import random

import pytest

from connprobe.report.thin import MOST_POINTS, Thinned


def test_up_to_two_thousand_readings_nothing_is_lost() -> None:
    thinned = Thinned()
    values = [random.Random(23).random() for _ in range(MOST_POINTS)]
    for at, value in enumerate(values):
        thinned.add(float(at), {"a": value})
    assert thinned.points("a") == (list(range(MOST_POINTS)), values)


@pytest.mark.parametrize("count", [2_001, 100_003])
def test_more_are_thinned_and_no_spike_is_lost(count: int) -> None:
    thinned = Thinned()
    for at in range(count):
        thinned.add(float(at), {"a": 1e6 if at == 1_777 else -5.0 if at == 1_999 else 1.0, "b": float(at)})
    x, y = thinned.points("a")
    assert len(x) <= MOST_POINTS
    assert x == sorted(x)
    assert (x[y.index(1e6)], x[y.index(-5.0)]) == (1_777, 1_999)
    assert thinned.points("b")[1][-1] == count - 1


def test_what_was_not_read_breaks_the_line() -> None:
    thinned = Thinned()
    for at, value in enumerate([None] * 4 + [1.0] * 4 + [None] * 4 + [2.0] * 2 + [None] * 4):
        thinned.add(float(at), {"a": value})
    assert [value for _, value in zip(*thinned.points("a"), strict=True)] == [1.0] * 4 + [None, 2.0, 2.0]
    assert thinned.points("never") == ([], [])
