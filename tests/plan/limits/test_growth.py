import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connprobe.model import Growth
from connprobe.plan.limits.growth import band_at, fit, value_at

TRIALS = 200
# About four standard deviations of a share of 200 trials around 95 %, and what the tests for shape cost.
LEAST = 0.88


def ramp(readings: int, most: int = 4000) -> list[int]:
    return [most * index // (readings - 1) for index in range(readings)]


def fitted(xs: list[int], ys: list[float]) -> Growth:
    growth = fit(xs, ys, metric="rss_bytes", unit="bytes")
    assert growth is not None
    return growth


def student3(rng: random.Random) -> float:
    return rng.gauss(0, 1) / math.sqrt(sum(rng.gauss(0, 1) ** 2 for _ in range(3)) / 3)


NOISE: dict[str, Callable[[random.Random], float]] = {
    "gauss": lambda rng: rng.gauss(0, 1),
    "student3": student3,
    "laplace": lambda rng: rng.expovariate(1) * rng.choice((-1, 1)),
    "skewed": lambda rng: rng.expovariate(1) - 1,
}


@pytest.mark.parametrize("readings", [4, 6, 8])
@pytest.mark.parametrize("noise", NOISE)
def test_the_intervals_hold_95_percent(noise: str, readings: int) -> None:
    rng = random.Random(f"{noise} {readings}")
    xs, slopes, bases, width = ramp(readings), 0, 0, 0.0
    for _ in range(TRIALS):
        base, slope = 4e6 + rng.random() * 1e5, 4733 * (1 + rng.random() / 10)
        growth = fitted(xs, [base + slope * x + 50_000 * NOISE[noise](rng) for x in xs])
        slopes += growth.low <= slope <= growth.high
        bases += growth.base_low <= base <= growth.base_high
        width += (growth.high - growth.low) / slope / TRIALS
    assert slopes / TRIALS >= LEAST
    assert bases / TRIALS >= (0.8 if noise == "skewed" else LEAST)
    # Wide enough is not enough: 50 kB of noise on 19 MB of growth must not leave more open than it does.
    assert width < {4: 0.05, 6: 0.025, 8: 0.02}[readings]


@pytest.mark.parametrize("readings", [5, 6, 8])
def test_one_reading_far_off_does_not_mislead(readings: int) -> None:
    rng = random.Random(readings)
    xs, seen, found = ramp(readings), 0, 0
    for _ in range(TRIALS):
        ys = [4e6 + 4733 * x + rng.gauss(0, 5_000) for x in xs]
        ys[rng.randrange(readings - 1)] += rng.choice((-1, 1)) * rng.choice((25e3, 100e3, 5e6))
        growth = fitted(xs, ys)
        seen += growth.low <= 4733 <= growth.high
        found += growth.outliers
    assert seen / TRIALS >= LEAST
    assert found / TRIALS > (0.25 if readings == 5 else 0.5)


@pytest.mark.parametrize("readings", [4, 5, 7])
def test_pages_round_even_what_is_exact(readings: int) -> None:
    """25 B a connection seen through pages of 4 kB: even a perfect line through them is off."""
    rng, xs, seen, flat = random.Random(readings), ramp(readings), 0, 0
    for _ in range(TRIALS):
        base, slope = 4e6 + rng.random() * 1e5, 20 + 10 * rng.random()
        growth = fitted(xs, [math.ceil((base + slope * x) / 4096) * 4096.0 for x in xs])
        seen += growth.low <= slope <= growth.high
        flat += growth.shape == "flat"
        assert growth.residual >= 4096 / math.sqrt(12)
    assert seen / TRIALS >= LEAST
    assert flat < TRIALS / 10


def test_descriptors_are_known_to_the_letter() -> None:
    growth = fit(ramp(7), [23.0 + x for x in ramp(7)], metric="fds", unit="count")
    assert growth is not None
    assert (growth.base, growth.base_low, growth.base_high) == (23, 23, 23)
    assert (growth.per_connection, growth.low, growth.high, growth.residual) == (1, 1, 1, 0)
    assert growth.shape == "straight"


def test_a_first_reading_before_the_server_was_warm_is_left_out() -> None:
    xs = [0, 800, 1600, 2400, 3200, 4000]
    growth = fitted(xs, [4e6 - (x == 0) * 800e3 + 4733 * x + x % 700 for x in xs])
    assert growth.outliers == 1
    assert growth.first == 800
    assert growth.per_connection == pytest.approx(4733, rel=0.001)


def test_the_last_reading_is_never_left_out_but_against_another_as_far() -> None:
    xs = ramp(8)
    alone = fitted(xs, [4e6 + 4733 * x + x % 700 + (x == 4000) * 2e6 for x in xs])
    assert alone.outliers == 0
    assert alone.low < 4733 < alone.high or alone.shape == "bent"
    again = fitted(
        [*xs, 4000, 4000],
        [*(4e6 + 4733 * x + x % 700 + (x == 4000) * 2e6 for x in xs), 4e6 + 4733 * 4000, 4e6 + 4733 * 4000],
    )
    assert again.outliers == 1
    assert again.per_connection == pytest.approx(4733, rel=0.001)


def test_two_apart_on_the_same_side_do_not_hide_one_another() -> None:
    xs = ramp(12)
    ys = [4e6 + 4733 * x + x % 700 + (index in (3, 4)) * 3e6 for index, x in enumerate(xs)]
    growth = fitted(xs, ys)
    assert growth.outliers == 2
    assert growth.per_connection == pytest.approx(4733, rel=0.001)


@given(
    st.integers(0, 10**6),
    st.integers(1, 10**5),
    st.lists(st.integers(0, 10**6), min_size=3, max_size=12, unique=True),
)
def test_any_exact_line_comes_out_exactly(base: int, slope: int, xs: list[int]) -> None:
    growth = fit(xs, [base + slope * x for x in xs], metric="files", unit="count")
    assert growth is not None
    assert (growth.base, growth.per_connection, growth.low, growth.high) == (base, slope, slope, slope)
    assert (growth.shape, growth.outliers) == ("straight", 0)


readings = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**9)), min_size=3, max_size=12)


@settings(deadline=None)
@given(readings, st.integers(-20, 20))
def test_units_do_not_matter(points: list[tuple[int, int]], power: int) -> None:
    xs = [x for x, _ in points]
    one = fit(xs, [float(y) for _, y in points], metric="files", unit="count")
    other = fit(xs, [y * 2.0**power for _, y in points], metric="files", unit="count")
    if one is None:
        assert other is None
        return
    assert other is not None
    assert (other.outliers, len(other.steps)) == (one.outliers, len(one.steps))
    for name in ("base", "base_low", "base_high", "per_connection", "low", "high", "residual"):
        assert getattr(other, name) == pytest.approx(getattr(one, name) * 2.0**power, rel=1e-9)


@settings(deadline=None)
@given(readings)
def test_any_readings_have_finite_bounds_in_order(points: list[tuple[int, int]]) -> None:
    growth = fit([x for x, _ in points], [y for _, y in points], metric="rss_bytes", unit="bytes")
    if growth is None:
        assert len({x for x, _ in points}) < 2
        return
    figures = (growth.base, growth.base_low, growth.base_high, growth.low, growth.high, growth.residual)
    assert all(math.isfinite(figure) for figure in figures)
    assert growth.low <= growth.per_connection <= growth.high
    assert growth.base_low <= growth.base <= growth.base_high
    for x in (0, growth.last, 10 * growth.last + 10):
        low, high = band_at(growth, x)
        assert low <= value_at(growth, x) <= high


def test_what_does_not_grow_is_flat() -> None:
    rng = random.Random(3)
    assert fitted(ramp(6), [5e6] * 6).shape == "flat"
    assert fitted(ramp(6), [5e6 - 10 * x for x in ramp(6)]).shape == "flat"
    assert fitted(ramp(6), [5e6 + x / 8 for x in ramp(6)]).shape == "flat"
    noisy = [fitted(ramp(6), [5e6 + rng.gauss(0, 1e5) for _ in range(6)]).shape for _ in range(200)]
    assert noisy.count("flat") >= 185


def test_too_little_to_fit() -> None:
    assert fit([], [], metric="rss_bytes", unit="bytes") is None
    assert fit([5, 5, 5], [1.0, 2.0, 3.0], metric="rss_bytes", unit="bytes") is None
    assert fit([0, 4000], [1e6, 9e6], metric="rss_bytes", unit="bytes") is None
    assert fit([0, 4000, 4000], [1e6, 9e6, math.nan], metric="rss_bytes", unit="bytes") is None
    assert fit([0, 4000], [20.0, 47.0], metric="threads", unit="count") is None
    two = fit([0, 4000], [23.0, 4023.0], metric="fds", unit="count")
    assert two is not None
    assert (two.base, two.low, two.high) == (23, 1, 1)


@pytest.mark.parametrize("curvature", [-0.3, 0.2])
def test_a_bend_is_told_with_its_size(curvature: float) -> None:
    rng, xs, told = random.Random(5), ramp(8), 0
    for _ in range(50):
        # The slope at the end is 5,000; at first it was (1 - curvature) of it.
        second = curvature * 5000 / 8000
        growth = fitted(xs, [4e6 + 5000 * x + second * (x - 4000) ** 2 + rng.gauss(0, 5e3) for x in xs])
        if growth.shape == "bent":
            told += 1
            assert growth.curvature == pytest.approx(curvature, abs=0.06)
            assert value_at(growth, 0) == pytest.approx(4e6 + second * 4000**2, abs=40e3)
    assert told >= 48


def test_a_straight_growth_is_seldom_taken_for_another() -> None:
    rng, xs = random.Random(6), ramp(8)
    shapes = [fitted(xs, [4e6 + 5000 * x + rng.gauss(0, 5e4) for x in xs]).shape for _ in range(300)]
    assert shapes.count("straight") >= 285


def test_a_table_that_doubled_is_seen_with_its_size() -> None:
    rng, xs = random.Random(7), ramp(10)
    for _ in range(50):
        growth = fitted(xs, [4e6 + 2000 * x + (x > 2048) * 1e6 + rng.gauss(0, 2e4) for x in xs])
        assert growth.shape == "stepped"
        (step,) = growth.steps
        assert 1777 <= step.connections <= 2222
        assert step.size == pytest.approx(1e6, rel=0.15)
        assert growth.per_connection == pytest.approx(2000, rel=0.03)
        assert value_at(growth, 0) == pytest.approx(4e6, abs=1e5)
        assert growth.base == pytest.approx(5e6, abs=1.5e5)


def test_two_steps() -> None:
    xs = ramp(12, 11_000)
    growth = fitted(xs, [4e6 + 2000 * x + (x > 3500) * 3e6 + (x > 7500) * 6e6 + x % 700 for x in xs])
    assert [step.connections for step in growth.steps] == [3500, 7500]
    assert [step.size for step in growth.steps] == pytest.approx([3e6, 6e6], rel=0.01)
