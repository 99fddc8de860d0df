"""What a person sees at the end of `connprobe pipeline`."""

import io
import json
import re
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from connprobe.model import (
    PIPELINE_SCHEMA,
    Answers,
    Growth,
    HostRecord,
    PipelineRecord,
    PipelineRequest,
    PipelineStep,
    Reading,
    Stage,
    Verdict,
    Verified,
)
from connprobe.report.html.pipeline import render_pipeline_html
from connprobe.report.markdown import pipeline_markdown
from connprobe.report.pipeline import BOUND_NOTE, render_pipeline
from made import a_limit

HEAP = a_limit(
    "heap",
    136_593,
    133_203,
    139_983,
    capacity=200 << 20,
    per_connection=1507.5,
    unit="bytes",
    fix="node --max-old-space-size=400",
    source="v8.getHeapStatistics()",
)


READINGS: tuple[tuple[Stage, int, dict[str, float]], ...] = (
    ("start", 0, {"rss_bytes": 43e6}),
    ("ramp", 25_000, {"rss_bytes": 97e6, "heap_bytes": 41.5e6}),
    ("ramp", 50_000, {"rss_bytes": 146.1e6}),
)


def a_record(**changes: Any) -> PipelineRecord:
    growth = Growth(
        metric="heap_bytes",
        unit="bytes",
        base=3.8e6,
        base_low=3e6,
        base_high=4e6,
        per_connection=1507.5,
        low=1485.2,
        high=1529.8,
        residual=1e4,
        readings=2,
        first=25_000,
        last=50_000,
    )
    record = PipelineRecord(
        schema=PIPELINE_SCHEMA,
        connprobe="0.1.0",
        command="pipeline",
        outcome="done",
        started_at="2026-01-02T03:04:05Z",
        target="127.0.0.1:8080",
        request=PipelineRequest(target="127.0.0.1:8080", count=50_000),
        requested=50_000,
        request_bytes=41,
        sent=56_000,
        received=50_000,
        received_most=50_000,
        received_by="read",
        pending=50_000,
        pending_most=50_000,
        ended="count",
        ended_by="all that were asked for are pending",
        requests_per_s=31_415.9,
        answers=Answers(
            early=0, expected=None, released=None, statuses={}, bytes=0, in_order=None, release_s=None
        ),
        steps=tuple(
            PipelineStep(
                sent=sent,
                received=received,
                answered=0,
                pending=received,
                socket_bytes=(sent - received) * 41,
                send_s=took_s,
                settled=settled,
            )
            for sent, received, took_s, settled in (
                (25_000, 25_000, 0.5, True),
                (56_000, 50_000, None, False),
            )
        ),
        readings=tuple(
            Reading(stage=stage, at_s=1.0, connections=pending, settled=True, use=use)
            for stage, pending, use in READINGS
        ),
        growth=(growth,),
        limits=(HEAP,),
        verified=None,
        memory_bound_bytes=10**9,
        memory_bound_source="--memory-bound",
        memory_bound_met=replace(HEAP, resource="memory_bound", connections=523_456, low=5e5, high=6e5),
        server_pids=(7,),
        start_rss_bytes=43_000_000,
        peak_rss_bytes=147_000_000,
        runtime=None,
        host=HostRecord(kernel="6.18", cpus=2, memory_total_bytes=24 << 30, nofile=1024, python="3.11.2"),
        headline="The server held 50,000 requests of one connection pending.",
        verdicts=(),
        unknown={"runtime": "no runtime was asked"},
    )
    return replace(record, **changes)


def rendered(record: PipelineRecord, *, width: int = 160, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, no_color=True, _environ={})
    render_pipeline(record, console, results="results/x")
    return file.getvalue()


def row(text: str, name: str) -> str:
    return next(" ".join(line.split()) for line in text.splitlines() if line.strip().startswith(name))


def test_the_answer_first_then_what_is_behind_it_then_where_it_is() -> None:
    text = rendered(a_record(verdicts=(Verdict(level="good", text="All is well."),)))
    assert text.splitlines()[0] == "The server held 50,000 requests of one connection pending."
    headings = (
        "Steps, with requests of 41 B",
        "What one more",
        "Where it ends",
        "Verdicts",
        "Not known",
        "results",
    )
    places = [text.index(f"\n{heading}") for heading in headings]
    assert places == sorted(places)


def test_a_step_has_what_was_read_then_and_a_dash_for_what_was_not() -> None:
    text = rendered(a_record())
    assert row(text, "step 1") == "step 1 25,000 25,000 0 25,000 97.0 MB 41.5 MB 0 B 50,000/s"
    assert row(text, "step 2").startswith("step 2 56,000 50,000 0 50,000 146.1 MB \N{EN DASH} 246.0 kB")
    assert "memory did not settle" in text
    assert "read by it" in text
    assert "acknowledged" in rendered(a_record(received_by="acknowledged"))


def test_the_bound_is_no_end_of_the_server() -> None:
    text = rendered(a_record())
    assert row(text, "the V8 heap").startswith("the V8 heap 136,593 133,000\N{EN DASH}140,000 200 MB 1,508 B")
    assert BOUND_NOTE in " ".join(text.split())
    assert text.index("the V8 heap") < text.index("memory bound")


def test_prediction_and_truth_are_side_by_side() -> None:
    true = Verified(
        connections=135_204,
        resource="heap",
        cause="the server died: killed by SIGABRT",
        side="server",
        predicted=136_593,
        error=0.0103,
        inside=True,
    )
    text = rendered(a_record(verified=true))
    assert "135,204" in text
    assert "+1.0%" in text
    assert "the heap: the server died: killed by SIGABRT" in text


def test_a_death_that_is_known_to_the_window_is_a_span() -> None:
    true = Verified(
        connections=130_000,
        resource="heap",
        cause="the server died: killed by SIGABRT",
        side="server",
        predicted=136_593,
        most=136_393,
    )
    assert "130,000\N{EN DASH}136,393" in rendered(a_record(verified=true))


def test_what_a_server_says_moves_no_cursor() -> None:
    text = rendered(a_record(unknown={"runtime": "\x1b[2J\x1b]0;owned\x07gone"}), terminal=True)
    assert "\x1b[2J" not in text
    assert "owned" not in text
    assert "gone" in text


def test_no_line_is_wider_than_the_terminal() -> None:
    for width in (40, 80, 120):
        text = rendered(a_record(), width=width, terminal=True)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        lines = [line for line in plain.splitlines() if "results/x" not in line and "node --max" not in line]
        assert max(len(line) for line in lines) <= width


def drawn(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page)
    assert found is not None
    return dict(json.loads(found[1]))


def test_the_page_has_what_the_terminal_has_and_the_record() -> None:
    record = a_record(verdicts=(Verdict(level="good", text="All is <b>well</b>."),))
    page = render_pipeline_html(record)
    for words in (
        "<h1>The server held 50,000 requests of one connection pending.</h1>",
        "All is &lt;b&gt;well&lt;/b&gt;.",
        "<b>1,508 B</b><span>heap a pending request</span>",
        "node --max-old-space-size=400",
        BOUND_NOTE.replace("'", "&#x27;"),
        "memory did not settle",
        "no runtime was asked",
        "memory_total_bytes",
        "<summary>pipeline.json</summary>",
    ):
        assert words in page, words
    assert page == render_pipeline_html(record)


def test_memory_is_drawn_over_pending_requests_with_the_line_of_its_fit_and_the_band() -> None:
    figure = drawn(render_pipeline_html(a_record()))["memory"]
    assert figure["layout"]["xaxis"]["title"]["text"] == "pending requests"
    by_name = {each["name"]: each for each in figure["data"]}
    assert by_name["RSS"]["x"] == [0, 25_000, 50_000]
    assert by_name["RSS"]["y"] == [43e6, 97e6, 146.1e6]
    line, band = by_name["heap: 1,508 B each"], by_name["95 %"]
    assert line["x"][-1] == 50_000
    assert line["y"][-1] == pytest.approx(3.8e6 + 50_000 * 1507.5)
    assert band["fill"] == "toself"
    assert max(band["y"]) > line["y"][-1]


def test_a_run_in_which_nothing_was_read_has_a_page_without_a_chart() -> None:
    page = render_pipeline_html(a_record(readings=(), growth=(), steps=(), limits=(), memory_bound_met=None))
    assert 'id="figures"' not in page
    assert "Machine and settings" in page


def test_markdown_has_the_tables_and_no_markup_of_a_stranger() -> None:
    text = pipeline_markdown(a_record(headline="It held <b>*all*</b>."))
    assert text.splitlines()[0] == r"It held \<b\>\*all\*\</b\>."
    assert "### Where it ends" in text
    assert "`node --max-old-space-size=400`" in text
    assert re.search(r"^\| step 1 \| 25,000 \|", text, re.MULTILINE)
