"""The tables of a comparison, in the words that a person reads."""

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from bouts import SUITE, a_bout
from connprobe.model import HostRecord, Verdict
from connprobe.model.bout import COMPARE_SCHEMA, CompareRecord, CompareRequest, Figure, Spread, Standing
from connprobe.plan.suites.standings import FIGURES
from connprobe.report import format as fmt
from connprobe.report.html.standings import render_compare_html
from connprobe.report.standings import line, markdown, render_compare, spread

NONE = Figure(values=None, ratios=None)


def of(median: float, low: float, high: float, count: int = 3) -> Spread:
    return Spread(median=median, low=low, high=high, count=count)


def standing(contestant: str, **figures: Figure) -> Standing:
    return Standing(
        workload="plain",
        size=2000,
        contestant=contestant,
        control=contestant == "control",
        done=3 if figures else 0,
        bouts=3,
        figures={**dict.fromkeys(FIGURES, NONE), **figures},
    )


DIED = a_bout(
    "proxy",
    2,
    None,
    size=2000,
    outcome="died",
    said="proxy ended (killed by SIGSEGV); its last words: <b>\x1b[31mred",
)


@pytest.fixture
def record() -> CompareRecord:
    total = Figure(values=of(1.5, 1.4, 1.8), ratios=of(1, 1, 1))
    slower = Figure(values=of(3.0, 2.9, 3.6), ratios=of(2.0, 1.9, 2.1))
    return CompareRecord(
        schema=COMPARE_SCHEMA,
        connprobe="0.1.0",
        command="compare",
        outcome="missed",
        started_at="2026-01-02T03:04:05+00:00",
        request=CompareRequest(
            suite=replace(SUITE, title="small", sizes=(2000,)),
            path="s.toml",
            place="/x",
            sizes=(2000,),
            repeats=3,
        ),
        skipped={"hitch (ws over TLS)": "no program hitch; apt-get install hitch"},
        versions={"proxy": "proxy 1.2"},
        turns=6,
        bouts=(DIED,),
        standings=(standing("control", total_s=total), standing("proxy", total_s=slower)),
        host=HostRecord(kernel="6.1", cpus=2, memory_total_bytes=1, nofile=1, python="3.11"),
        verdicts=(Verdict(level="warning", text="Others used the CPU."),),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (of(41.2, 40.1, 43.0), "41.2 (40.1-43.0) ms"),
        (of(41.2, 41.2, 41.2), "41.2 ms"),
        (of(900, 800, 12_000), "900 ms (800 ms-12 s)"),
    ],
)
def test_a_spread_keeps_its_units_apart(value: Spread | None, expected: str) -> None:
    assert spread(value, fmt.ms) == expected.replace("-", fmt.DASH)


def test_minutes_are_not_cut_into_numbers_and_units() -> None:
    assert spread(of(130, 125, 190), fmt.duration) == f"2m 10s (2m 05s{fmt.DASH}3m 10s)"


def test_the_terminal_says_all_of_it(record: CompareRecord) -> None:
    out = io.StringIO()
    render_compare(record, Console(file=out), results="/r", report="/r/report.html")
    said = out.getvalue()
    assert said.startswith("small: 0 of 6 runs done; 2 contestants in 1 workload.\n")
    assert f"3 (2.9{fmt.DASH}3.6) s" in said
    assert f"2.00 (1.90{fmt.DASH}2.10)" in said
    assert "hitch (ws over TLS)" in said
    assert "plain 2,000 proxy, round 2  died" in said
    assert "warning: Others used the CPU." in said
    assert "\x1b[31m" not in said


def test_markdown_and_html_take_no_markup_of_a_server(record: CompareRecord) -> None:
    text, page = markdown(record), render_compare_html(record)
    for shown in (text, page):
        assert "<b>" not in shown.partition("last words")[2][:60]
        assert "\x1b" not in shown
        assert f"3 (2.9{fmt.DASH}3.6) s" in shown
    assert "| 2,000 control |" in text
    assert render_compare_html(record) == page


def test_a_run_that_is_over_has_one_line() -> None:
    assert line(DIED, 3, 6).startswith("[3/6] plain 2,000 proxy, round 2: DIED: proxy ended")
    done = line(a_bout("proxy", 2, None, size=2000, total_s=1.5), 4, 6)
    assert done == f"[4/6] plain 2,000 proxy, round 2: 1.5 s, handshake {fmt.DASH}, latency {fmt.DASH}"


def test_a_record_that_lacks_a_figure_has_a_dash_for_it(record: CompareRecord) -> None:
    lacks = replace(record, standings=tuple(replace(it, figures={}) for it in record.standings))
    row = f"| 2,000 proxy | {fmt.DASH} | {fmt.DASH} |"
    assert row in markdown(lacks)
    assert "2,000 proxy" in render_compare_html(lacks)
