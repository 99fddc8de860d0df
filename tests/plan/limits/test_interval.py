import math
import random

import pytest

from connprobe.plan.limits.interval import deviation, interval


def test_ten_runs() -> None:
    """Moore, McCabe: vitamin C of eight samples, mean 22.5, s 7.19, 95 %: 16.5 to 28.5."""
    found = interval([26, 31, 23, 22, 11, 22, 14, 31])
    assert found is not None
    assert found.count == 8
    assert found.mean == 22.5
    assert found.low == pytest.approx(16.49, abs=0.01)
    assert found.high == pytest.approx(28.51, abs=0.01)
    assert deviation([26, 31, 23, 22, 11, 22, 14, 31]) == pytest.approx(7.191, abs=0.001)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = interval([5.0, math.nan])
    assert one is not None
    assert (one.mean, one.low, one.high, one.count) == (5, None, None, 1)
    assert interval([]) is None
    assert interval([math.inf]) is None


@pytest.mark.parametrize("count", [2, 3, 10])
def test_it_holds_95_percent(count: int) -> None:
    rng, inside = random.Random(count), 0
    for _ in range(2000):
        found = interval([rng.gauss(7, 3) for _ in range(count)])
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 7 <= found.high
    assert 0.935 <= inside / 2000 <= 0.965
