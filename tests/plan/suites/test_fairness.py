"""What is said against the figures of a comparison."""

from bouts import SUITE, a_bout
from connprobe.model.bout import Bout, Others
from connprobe.plan.suites.fairness import fairness
from connprobe.plan.suites.standings import standings


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
