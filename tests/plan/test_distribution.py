"""Percentiles of a record against the values themselves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.distribution import distribution
from connprobe.plan.histogram import BUCKETS, bucket


def counted(values: list[int]) -> list[int]:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket(value)] += 1
    return counts


def test_nothing_has_no_distribution() -> None:
    assert distribution([], 0, 0) is None
    assert distribution([0] * BUCKETS, 0, 0) is None


def test_one_value_is_all_of_it() -> None:
    found = distribution(counted([40_961]), 40_961, 40_961)
    assert found is not None
    assert (found.count, found.mean, found.max) == (1, 40.961, 40.961)
    assert found.p50 == found.p90 == found.p99
    assert found.p50 == pytest.approx(40.961, rel=0.016)


@given(st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=101))
def test_percentiles_are_those_of_the_values_and_in_order(values: list[int]) -> None:
    found = distribution(counted(values), sum(values), max(values))
    assert found is not None
    assert found.count == len(values)
    assert found.p50 <= found.p90 <= found.p99 <= found.max
    assert found.mean == pytest.approx(sum(values) / len(values) / 1000, abs=1e-4)
    ordered = sorted(values)
    for got, fraction in ((found.p50, 0.5), (found.p90, 0.9), (found.p99, 0.99)):
        exact = ordered[math.ceil(fraction * len(values)) - 1] / 1000
        assert got == pytest.approx(exact, rel=0.016, abs=1e-3)


def test_no_percentile_is_above_the_maximum() -> None:
    """The middle of the largest value's bucket may lie above it."""
    values = [1 << 20] * 7
    found = distribution(counted(values), sum(values), max(values))
    assert found is not None
    assert found.p50 == found.p99 == found.max == round((1 << 20) / 1000, 4)
