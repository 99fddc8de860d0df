"""A load as it is read: on a terminal, in a pipe, in report.html and beside another."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from connprobe.model import Distribution, HoldRequest, Late, LoadFigures, LoadRequest, RunRecord
from connprobe.model import ThresholdFigures as Judged
from connprobe.plan.compare import compare
from connprobe.report import format as fmt
from connprobe.report.format import DASH
from connprobe.report.html import render_html
from connprobe.report.loaded import render_load_record

Make = Callable[..., RunRecord]
HANDSHAKES = Distribution(count=9973, mean=4.1, p50=3.2, p90=7.7, p99=16.3, p999=19.6, max=20.7)
MESSAGES = Distribution(count=9972, mean=2.1, p50=1.2, p90=3.7, p99=6.3, p999=9.6, max=10.7)


@pytest.fixture
def make_load(make_record: Make) -> Make:
    def make(load: dict[str, Any] | None = None, **changes: Any) -> RunRecord:
        figures = {
            "visited": 9971,
            "messages": 9973,
            "answered": 9972,
            "wrong": 1,
            "total_s": 1.26,
            "messages_per_s": 7977.6,
            "sent_bytes": 2_000_000,
            "received_bytes": 1_700_000,
            "late": None,
            **(load or {}),
        }
        fields = {
            "command": "load",
            "outcome": "missed",
            "request": HoldRequest(target="127.0.0.1:8080", count=10_000, concurrency=100, hold_s=0.0),
            "requested": 10_000,
            "held": 0,
            "failed": 27,
            "failures": {"refused": 27},
            "dropped": 1,
            "drops": {"reset": 1},
            "ramp_s": 1.25,
            "hold_s": 0.0,
            "connections_per_s": 7978.4,
            "handshake_ms": HANDSHAKES,
            "message_ms": MESSAGES,
            "load_request": LoadRequest(),
            "load": LoadFigures(**figures),
            "pings": None,
            **changes,
        }
        return make_record(**fields)

    return make


def rendered(record: RunRecord, *, terminal: bool = False, width: int = 80) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, _environ={})
    render_load_record(record, console, results="results/x")
    return file.getvalue()


def test_the_answer_comes_first_on_one_line_when_piped(make_load: Make) -> None:
    assert rendered(make_load()).splitlines()[0] == (
        "9,971 of 10,000 WebSocket connections to 127.0.0.1:8080 in 1.3 s, 7,978/s; "
        "27 failed, 1 dropped, 1 wrong echo."
    )
    assert rendered(make_load(outcome="interrupted")).startswith("Interrupted. 9,971 of")


def test_latencies_from_mean_to_max(make_load: Make) -> None:
    lines = rendered(make_load(), width=120).splitlines()
    header = next(line for line in lines if "p99.9" in line)
    assert header.split() == ["mean", "p50", "p90", "p99", "p99.9", "max"]
    message = next(line for line in lines if line.strip().startswith("message "))
    figures = (2.10, 1.20, 3.70, 6.30, 9.60, 10.7)
    assert message.split()[1:13:2] == [fmt.ms(it).split()[0] for it in figures]


def test_what_was_not_measured_is_a_dash(make_load: Make) -> None:
    nothing = make_load({"sent_bytes": None, "received_bytes": None}, message_ms=None)
    nothing.unknown["load.sent_bytes"] = "this kernel's TCP_INFO tells no bytes"
    lines = rendered(nothing, width=120).splitlines()
    assert next(line for line in lines if line.strip().startswith("message ")).count(DASH) == 6
    assert "tells no bytes" in next(line for line in lines if "bytes sent" in line)


def test_http_has_answers_and_no_echoes(make_load: Make) -> None:
    asked = HoldRequest(target="127.0.0.1:8080", count=10_000, protocol="http", hold_s=0.0)
    text = rendered(make_load(request=asked), width=120)
    assert "1 dropped, 1 wrong answer." in text.splitlines()[0]
    assert "every response was a 2xx" in text
    assert "echo" not in text
    names = {it.name for it in compare([make_load(request=asked), make_load()], ["a", "b"], ["", ""]).figures}
    assert "wrong answers" in names
    assert "wrong echoes" not in names


def test_bytes_are_of_connections_whose_bytes_were_read(make_load: Make) -> None:
    """Failed ones are not among them, nor are those that a worker took along."""
    record = make_load(dropped=8, drops={"reset": 1, "worker_lost": 7})
    sent = next(line for line in rendered(record, width=120).splitlines() if "bytes sent" in line)
    assert "of 9,973 established connections that ended" in sent


def test_thresholds_and_lateness(make_load: Make) -> None:
    judged = (
        Judged(threshold="handshake.p99<10ms", value=16.3, met=False),
        Judged(threshold="failed<1%", value=28, met=True),
        Judged(threshold="message.max<1s", value=None, met=False),
    )
    late = Late(mean_ms=0.21, max_ms=312.0)
    text = rendered(make_load({"thresholds": judged, "late": late}))
    lines = [line.split() for line in text.splitlines()]
    assert ["handshake.p99<10ms", "MISSED", "16.3", "ms"] in lines
    assert ["failed<1%", "met", "28", "(27", "failed,", "1", "dropped)"] in lines
    assert ["message.max<1s", "MISSED", "nothing", "was", "measured"] in lines
    assert "312 ms at most" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_figure_of_memory_is_cut(make_load: Make, width: int) -> None:
    text = rendered(make_load(), terminal=True, width=width)
    memory = text[text.index("Memory and CPU") :]
    record = make_load()
    assert record.server is not None
    sizes = (record.server.start_rss_bytes, record.server.peak_rss_bytes, record.server.bytes_per_connection)
    for figure in (*map(fmt.nbytes, (*sizes, record.client.pss_bytes)), fmt.duration(14.2), "107 samples"):
        assert figure in " ".join(memory.split()), (figure, memory)


def test_report_html_has_them_too(make_load: Make) -> None:
    judged = (Judged(threshold="handshake.p99<10ms", value=16.3, met=False),)
    page = render_html(make_load({"thresholds": judged}), [])
    for words in (
        "p99.9",
        "19.6 ms",
        "handshake.p99&lt;10ms",
        "MISSED",
        "done of 10,000",
        "wrong echo.",
        "done, in 1.",
    ):
        assert words in page, words


def test_two_loads_side_by_side(make_load: Make) -> None:
    found = {
        f"{it.group} {it.name}": it.values
        for it in compare([make_load(), make_load(message_ms=None)], ["a", "b"], ["", ""]).figures
    }
    assert found["connections done"] == (9971, 9971)
    assert found["connections wrong echoes"] == (1, 1)
    assert found["message p99"] == (6.3, None)
    assert found["connections done a second"] == (7978.4, 7978.4)
    assert not {"connections held", "connections established a second"} & set(found)
