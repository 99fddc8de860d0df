import math
import random

import pytest

from connprobe.plan.line import LineFit, half_width


def test_a_straight_line_far_from_zero_is_found_exactly() -> None:
    fit = LineFit()
    for x in range(1_000_000, 1_000_023):
        fit.add(x, 4e9 + 4733.0 * x)
    assert fit.slope == pytest.approx(4733.0, rel=1e-9)
    assert fit.at(0) == pytest.approx(4e9, rel=1e-6)
    assert fit.spread == pytest.approx(0, abs=1)


def test_the_band_holds_95_percent_of_what_scatters_normally() -> None:
    chance, fit = random.Random(7), LineFit()
    points = [(x, 50.0 + 2 * x + chance.gauss(0, 30)) for x in range(4001)]
    for x, y in points:
        fit.add(x, y)
    inside = sum(abs(y - fit.at(x)) <= fit.spread for x, y in points)
    assert 0.94 < inside / len(points) < 0.96


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 1), (2, 2)], [(5, 1), (5, 2), (5, 3)]])
def test_too_few_points_make_no_line(points: list[tuple[int, int]]) -> None:
    fit = LineFit()
    for x, y in points:
        fit.add(x, y)
    assert not fit.known


def test_the_band_of_a_line_is_that_of_least_squares() -> None:
    xs = [0, 800, 1600, 2400, 3200, 4000]
    middle = sum(xs) / len(xs)
    squares = sum((x - middle) ** 2 for x in xs)
    slope = math.sqrt(1 / squares)
    base = math.sqrt(1 / len(xs) + middle**2 / squares)
    for x in (0, 2000, 4000, 16_000):
        exact = math.sqrt(1 / len(xs) + (x - middle) ** 2 / squares)
        assert half_width(x, middle, base, slope) == pytest.approx(exact)
