"""Medians, spreads and ratios of a comparison, by hand."""

from typing import Any

import pytest

from connprobe.model import Distribution
from connprobe.model.bout import Bout, Figure, Others, Spread, Standing
from connprobe.plan.fairness import fairness
from connprobe.plan.standings import spread, standings
from connprobe.plan.suite import parse_suite

SUITE = parse_suite(
    """sizes = [7, 11]
[[workload]]
name = "plain"
[[contestant]]
name = "control"
control = true
command = ["a"]
[[contestant]]
name = "proxy"
command = ["b"]
""",
    "s.toml",
)


def a_bout(contestant: str, number: int, mean: float | None, **changes: Any) -> Bout:
    fields: dict[str, Any] = {
        "workload": "plain",
        "size": 7,
        "contestant": contestant,
        "round": number,
        "outcome": "done",
        "said": None,
        "started_at": "2026-01-02T03:04:05+00:00",
        "run": "runs/x",
        "visited": 7,
    }
    if mean is not None:
        fields["handshake_ms"] = Distribution(
            count=7, mean=mean, p50=mean, p90=mean, p99=mean, p999=mean, max=mean
        )
    return Bout(**{**fields, **changes})


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


def said(bouts: list[Bout]) -> str:
    return "\n".join(it.text for it in fairness(bouts, standings(SUITE, bouts)))


def test_a_quiet_comparison_has_nothing_said_against_it() -> None:
    quiet = Others(cpus=0.02, who=("cron (7) 0.02",))
    assert said([a_bout("control", 1, 1.0, others=quiet), a_bout("proxy", 1, 1.0, others=quiet)]) == ""


def test_what_makes_figures_worth_less_is_said_with_who_it_was() -> None:
    bouts = [
        a_bout("control", 1, 1.0, others=Others(cpus=0.9, who=("make (12) 0.80",))),
        a_bout("proxy", 1, 1.0, total_s=2.0, client_cpu_s=1.4, overflows=3),
        a_bout("proxy", 2, None, outcome="failed", said="no"),
    ]
    text = said(bouts)
    assert "1 of 3 runs did not end" in text
    assert "in 1 of 1 runs" in text
    assert "plain 7 control, round 1: 0.90 CPUs (make (12) 0.80)" in text
    assert "up to 0.70 in plain 7 proxy" in text
    assert "its accept queue may have overflowed, at most 3 times" in text
    assert "no ratios" not in text


def test_without_a_run_of_the_control_it_is_said_why_there_are_no_ratios() -> None:
    bouts = [a_bout("control", 1, 1.0, outcome="died"), a_bout("proxy", 1, 1.0)]
    assert "plain 7: no ratios" in said(bouts)
