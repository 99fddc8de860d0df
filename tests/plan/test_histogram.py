import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.histogram import BUCKETS, bucket, middle, percentile

values = st.integers(0, 2**32 - 1) | st.integers(0, 31).map(lambda bits: 1 << bits)


@given(values)
def test_the_middle_stands_for_the_value(value: int) -> None:
    index = bucket(value)
    assert 0 <= index < BUCKETS
    assert abs(middle(index) - value) <= value / 128  # half a bucket; a whole one is 1/64: 1.6 %


@given(values, values)
def test_larger_values_have_no_lower_bucket(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert bucket(low) <= bucket(high)
    assert middle(bucket(low)) <= middle(bucket(high))


def test_every_bucket_is_reached_and_holds_its_middle() -> None:
    assert [bucket(int(middle(index))) for index in range(BUCKETS)] == list(range(BUCKETS))
    assert sorted(map(middle, range(BUCKETS))) == list(map(middle, range(BUCKETS)))


@pytest.mark.parametrize("edge", [2**bits + off for bits in range(6, 32) for off in (-1, 0, 1)])
def test_at_powers_of_two(edge: int) -> None:
    assert bucket(edge) - bucket(edge - 1) in (0, 1)


def test_beyond_both_ends() -> None:
    assert bucket(-1) == bucket(0) == 0
    assert bucket(2**32 - 1) == bucket(2**32) == bucket(2**80) == BUCKETS - 1


@given(st.lists(values, min_size=1, max_size=300), st.sampled_from([0.001, 0.07, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_percentiles_are_nearest_ranks(found: list[int], fraction: float) -> None:
    counts = [0] * BUCKETS
    for value in found:
        counts[bucket(value)] += 1
    rank = max(1, -(-round(fraction * 1000) * len(found) // 1000))
    exact = sorted(found)[rank - 1]
    assert percentile(counts, fraction) == middle(bucket(exact))


def test_percentiles_of_many() -> None:
    rng = random.Random(23)
    found = [int(rng.lognormvariate(7, 2)) for _ in range(100_003)]
    counts = [0] * BUCKETS
    for value in found:
        counts[bucket(value)] += 10
    for fraction, rank in ((0.5, 50_002), (0.9, 90_003), (0.99, 99_003), (1.0, 100_003)):
        assert percentile(counts, fraction) == middle(bucket(sorted(found)[rank - 1]))


def test_without_values_there_is_no_percentile() -> None:
    assert percentile([0] * BUCKETS, 0.5) is None
    assert percentile([], 0.5) is None
