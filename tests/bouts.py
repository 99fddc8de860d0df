"""Bouts of a small suite, for the tests of what is made of them."""

from typing import Any

from connprobe.model import Distribution
from connprobe.model.bout import Bout
from connprobe.plan.suites.suite import parse_suite

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
