import random

import pytest

from connprobe.plan.limits.line import LineFit


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
