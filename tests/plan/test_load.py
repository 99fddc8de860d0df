"""Whether a load's client can have been its limit, by what it took of the cores."""

import pytest

from connprobe.model import LoadFigures
from connprobe.plan.load import client_verdict, wrong


def figures(cpu_s: float | None, total_s: float = 10.0) -> LoadFigures:
    return LoadFigures(
        visited=23,
        messages=23,
        answered=23,
        wrong=0,
        total_s=total_s,
        messages_per_s=2.3,
        sent_bytes=None,
        received_bytes=None,
        late=None,
        workers_cpu_s=cpu_s,
    )


@pytest.mark.parametrize(
    ("cpu_s", "workers", "level", "text"),
    [
        (5.0, 1, "good", "The client had time left: its worker took 50% of one core's time, under half."),
        (5.1, 1, "warning", "The client was the limit, or a part of it: its worker took 51%"),
        (4.0, 3, "good", "its workers took 40% of one core's time, under half"),
        (12.0, 3, "note", "The client took its share: its workers took 120% of one core's time, 40% each."),
        (18.0, 3, "warning", "its workers took 180% of one core's time, 60% each: over half."),
    ],
)
def test_half_a_core_is_the_line(cpu_s: float, workers: int, level: str, text: str) -> None:
    verdict = client_verdict(figures(cpu_s), workers)
    assert verdict is not None
    assert verdict.level == level
    assert text in verdict.text
    assert (verdict.fix is not None) is (level == "warning")


def test_nothing_is_said_of_what_tells_nothing() -> None:
    assert client_verdict(figures(None), 1) is None
    assert client_verdict(figures(0.4, total_s=0.49), 1) is None
    assert client_verdict(figures(0.0, total_s=0.0), 1) is None


def test_http_has_answers_and_no_echoes() -> None:
    assert [wrong(protocol, 1) for protocol in ("ws", "tcp", "http")] == [
        "wrong echo",
        "wrong echo",
        "wrong answer",
    ]
    assert wrong("http", 0) == "wrong answers"
    assert wrong("ws", 23) == "wrong echoes"
