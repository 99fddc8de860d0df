"""Medians, spreads and ratios of a comparison, by hand."""

import pytest

from bouts import SUITE, a_bout
from connprobe.model.bout import Figure, Spread, Standing
from connprobe.plan.suites.standings import spread, standings


def figure(found: tuple[Standing, ...], contestant: str, name: str = "handshake_mean_ms") -> Figure:
    return next(it for it in found if it.contestant == contestant).figures[name]


def test_ratios_are_of_one_round_and_their_median_is_taken() -> None:
    """The ratio of the medians would be 30 / 20 = 1.5."""
    bouts = [
        *(a_bout("control", number, mean) for number, mean in ((1, 10.0), (2, 20.0), (3, 40.0))),
        *(a_bout("proxy", number, mean) for number, mean in ((1, 30.0), (2, 30.0), (3, 80.0))),
    ]
    found = standings(SUITE, bouts)
    assert figure(found, "proxy") == Figure(
        values=Spread(median=30.0, low=30.0, high=80.0, count=3),
        ratios=Spread(median=2.0, low=1.5, high=3.0, count=3),
    )
    assert figure(found, "control").ratios == Spread(median=1.0, low=1.0, high=1.0, count=3)


def test_runs_that_are_not_done_are_in_no_figure() -> None:
    bouts = [
        a_bout("control", 1, 10.0),
        a_bout("control", 2, 1.0, outcome="missed", said="1 of 7 failed"),
        a_bout("proxy", 1, 20.0),
        a_bout("proxy", 2, 60.0),
        a_bout("proxy", 3, None, outcome="died", said="exit status 3"),
    ]
    found = standings(SUITE, bouts)
    assert [(it.done, it.bouts) for it in found] == [(1, 2), (2, 3)]
    proxy = figure(found, "proxy")
    assert proxy.values == Spread(median=40.0, low=20.0, high=60.0, count=2)
    assert proxy.ratios == Spread(median=2.0, low=2.0, high=2.0, count=1)


def test_without_a_value_or_a_control_there_is_no_figure() -> None:
    found = standings(SUITE, [a_bout("proxy", 1, 20.0), a_bout("control", 1, 0.0, size=11)])
    assert [(it.size, it.contestant) for it in found] == [(7, "proxy"), (11, "control")]
    assert figure(found, "proxy").ratios is None
    assert figure(found, "proxy", "cpu_s") == Figure(values=None, ratios=None)
    assert figure(found, "control").ratios is None, "nothing is divided by zero"
    assert standings(SUITE, []) == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], None), ([3.0], (3.0, 3.0, 3.0, 1)), ([4.0, 1.0], (2.5, 1.0, 4.0, 2)), ([9, 1, 5], (5, 1, 9, 3))],
)
def test_a_spread(values: list[float], expected: tuple[float, float, float, int] | None) -> None:
    found = spread(values)
    assert (found and (found.median, found.low, found.high, found.count)) == expected
