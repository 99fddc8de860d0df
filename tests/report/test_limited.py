import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from connprobe.model import LeftOut, RunRecord, Verdict
from connprobe.report import format as fmt
from connprobe.report.format import DASH
from connprobe.report.html import render_html
from connprobe.report.limited import render_limit_record
from connprobe.report.markdown import limit_markdown
from connprobe.report.trialrows import (
    cost_rows,
    over_start_rows,
    shape,
    stage_rows,
    trial_rows,
    verified_rows,
)
from report.conftest import a_record
from report.limited import LIMITS, STAGES, limited, trial, verified

Make = Callable[..., RunRecord]


def rendered(record: RunRecord, *, width: int = 100, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, no_color=True, _environ={})
    render_limit_record(record, console, results="results/x", report="results/x/report.html")
    return file.getvalue()


def section(text: str, heading: str) -> str:
    return text.partition(f"\n{heading}")[2].partition("\n\n")[0]


def test_what_may_end_and_is_no_limit_is_said_in_every_form() -> None:
    heap = LeftOut(
        resource="heap",
        scope="server",
        capacity=80 << 20,
        reason="does not grow measurably: 17,904 B a connection at most",
        not_before=4321,
        source="the V8 inspector",
    )
    never = replace(heap, resource="threads", reason="does not grow", never=True)
    maps = replace(heap, resource="max_map_count", metric="maps", reason="not measured, or too seldom (maps)")
    said = "not known: the V8 heap: room for at least 4,321 connections, does not grow measurably"
    for limits in (LIMITS, ()):
        record = limited(a_record(), limits=limits, left_out=(heap, never, maps))
        assert said in " ".join(rendered(record).split())
        assert said in limit_markdown(record)
        assert said in render_html(record, [])
        assert "does not grow." not in rendered(record)
        unmeasured = "memory mappings: room for at least 4,321 connections, not measured, or too seldom"
        assert unmeasured in " ".join(rendered(record).split())


def test_the_answer_first_then_what_is_behind_it_then_where_it_is() -> None:
    record = limited(a_record(), verdicts=(Verdict(level="note", text="GC ran."),))
    text = rendered(record)
    assert text.splitlines()[0] == record.headline
    headings = (
        *(
            "Limits, from 4,000 held",
            "What lifts them",
            "Predicted and found",
            "Stages",
            "A connection, over",
        ),
        *(
            "What one more connection costs",
            "Trials",
            "The run",
            "Verdicts",
            "Not known",
            "results  results/x",
        ),
    )
    places = [text.index(f"\n{heading}") for heading in headings]
    assert places == sorted(places)
    assert text.splitlines()[-1].endswith("report.html")
    assert "server: node server.js 8080" in text


def test_the_classic_table() -> None:
    lines = [line.split() for line in section(rendered(limited(a_record())), "Stages").splitlines()[2:]]
    stages = ["start", *["ramp"] * 5, "peak", "idle", "messaging", "drain"]
    assert [line[0] for line in lines[:10]] == stages
    assert " ".join(lines[7]) == "idle 4,000 82.00 ± 0.82 MB 22.592 ± 0.068 MB 29.20 ± 0.58 MB 0.430 ± 0.030%"


def test_one_trial_has_no_interval_between_trials() -> None:
    one = tuple(
        replace(
            stage,
            use={name: replace(it, low=None, high=None, count=1) for name, it in stage.use.items()},
            connections=replace(stage.connections, low=None, high=None, count=1),
            cpu_share=None,
        )
        for stage in STAGES
    )
    text = rendered(limited(a_record(), stages=one, trials=(trial(1),)))
    idle = next(line for line in section(text, "Stages").splitlines() if "idle" in line)
    assert idle.split() == ["idle", "4,000", "82.0", "MB", "22.6", "MB", "29.2", "MB", DASH]
    assert "by the fit of one trial" in text
    rows = section(text, "What one more").splitlines()
    heap = next(line for line in rows if line.split()[:1] == ["heap"])
    assert "4,734 ± 31 B" in heap
    assert "in steps: 65,536 B at 2,048" in text


def test_memory_that_grows_with_time_is_said() -> None:
    one = trial(1)
    late = {"start": 42e6, "idle": 42e6 + 4000 * 10_000 * 1.5}
    readings = tuple(
        replace(each, use={**each.use, "rss_bytes": late.get(each.stage, each.use["rss_bytes"])})
        for each in one.readings
    )
    leaking = replace(one, readings=readings, unsettled=("start", "idle"))
    record = limited(a_record(), trials=(leaking,))
    said = "while connections came and by 1.6 MB while none did: with time, not with connections"
    assert said in " ".join(rendered(record).split())
    assert said in limit_markdown(record)
    assert said in render_html(record, [])
    assert "with time" not in rendered(limited(a_record()))


def test_messages_that_took_less_than_a_tick_did_not_take_nothing() -> None:
    text = rendered(limited(a_record(), trials=(replace(trial(1), message_cpu_s=0.0),)))
    assert "a message takes the server under 0.0025 ms of CPU" in " ".join(text.split())
    assert "under 0.0025 ms" in section(text, "Trials")
    none = rendered(limited(a_record(), trials=(replace(trial(1), message_cpu_s=None),)))
    assert "a message takes" not in none


def test_what_falls_is_not_said_to_stand_still() -> None:
    fds = trial(1).growth[5]
    falling = replace(fds, per_connection=-0.25, low=-0.3, high=-0.2, shape="flat")
    assert shape(falling) == "falls by 0.25 a connection"
    assert shape(replace(falling, high=0.1)) == "does not grow measurably"


def test_shapes_are_words() -> None:
    text = rendered(limited(a_record()), width=120, terminal=True)
    text = " ".join(text.partition("What one more")[2].partition("Trials")[0].split())
    assert "bent: 7% cheaper at the last" in text
    assert "1 reading left out" in text
    assert "threads 0 11 0 0" in text
    assert "does not grow measurably" in text


def test_prediction_and_truth() -> None:
    outside = replace(
        verified(2), connections=15_000, error=0.13, inside=False, resource=None, cause="refused"
    )
    client = replace(
        verified(3), side="client", resource="source_ports", error=None, inside=None, cause="no port"
    )
    trials = (trial(1), replace(trial(2), verified=outside), replace(trial(3), verified=client))
    text = " ".join(section(rendered(limited(a_record(), trials=trials)), "Predicted and found").split())
    assert f"trial 1 16,951 16,300{DASH}17,500 16,852 +0.6% yes the server, the heap: the server died" in text
    assert f"trial 2 16,951 16,300{DASH}17,500 15,000 +13.0% no the server, not known by which" in text
    assert "the client gave out first, the server's limit was not" in text
    assert "1 of 2 inside the predicted interval, off by 13.0% at most." in text


def test_without_a_limit_it_says_why() -> None:
    record = limited(
        a_record(),
        headline=None,
        limits=(),
        verified=None,
        trials=(),
        stages=(),
        unknown={"limits": "it died"},
    )
    text = rendered(record)
    assert text.splitlines()[0] == "No limit can be told: it died."
    assert "Predicted" not in text
    assert "<h1>No limit can be told: it died.</h1>" in render_html(record, [])
    broken = replace(record, unknown={}, trials=(replace(trial(1), broken="it answered nothing"),))
    assert rendered(broken).startswith("No limit can be told: it answered nothing.")


def test_what_was_not_read_has_its_reason() -> None:
    stages = tuple(
        replace(stage, use={name: it for name, it in stage.use.items() if name != "heap_bytes"})
        for stage in STAGES
    )
    text = rendered(limited(a_record(), stages=stages, unknown={"heap_bytes": "Go tells no heap limit"}))
    assert "no heap: Go tells no heap limit" in text


def test_trials_say_what_was_wrong_with_them() -> None:
    broken = replace(
        trial(3), broken="the server died: SIGABRT", message_ms=None, messages=0, message_cpu_s=None
    )
    text = rendered(limited(a_record(), trials=(trial(2), broken)))
    rows = [line.split() for line in section(text, "Trials").splitlines()]
    assert rows[-1] == ["trial", "3", "4,000", *[DASH] * 6, "0.43%"]
    assert "trial 2  memory did not settle: ramp" in text
    assert "trial 3  ended early: the server died: SIGABRT" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_server_says_is_neutralised(terminal: bool) -> None:
    evil = "\x1b[31m[bold]\x07\u202e[/nope]x\nforged"
    bad = replace(trial(1), broken=evil, verified=replace(verified(1), cause=evil, resource=evil))
    text = rendered(limited(a_record(), headline=evil, trials=(bad,)), terminal=terminal, width=120)
    assert "[bold][/nope]x" in text
    assert not any(it in text for it in ("\x1b[31m", "\x07", "\u202e", "\nforged"))


@given(width=st.integers(1, 140), terminal=st.booleans())
def test_no_number_of_the_record_is_lost_at_any_width(width: int, terminal: bool) -> None:
    record = limited(a_record())
    text = rendered(record, width=width, terminal=terminal)
    tables: list[Any] = [
        stage_rows(STAGES),
        over_start_rows(STAGES),
        cost_rows(record.trials),
        trial_rows(record.trials),
        verified_rows(record),
    ]
    for table in tables:
        for row in table.rows:
            assert all(cell in text for cell in row[1:-1]), row
    for each in record.trials:
        assert each.message_ms is not None
        assert each.verified is not None
        for said in (fmt.ms(each.message_ms.max), fmt.count(each.held), fmt.count(each.verified.connections)):
            assert said in text


def test_markdown_has_the_same_tables_and_no_markup_of_a_strangers() -> None:
    evil = "</table>|x`\n# y"
    limits = (replace(LIMITS[0], fix=evil, note=evil), *LIMITS[1:])
    text = limit_markdown(limited(a_record(), limits=limits))
    for title in ("Limits", "Limits of traffic", "Predicted and found", "Stages", "Trials"):
        assert f"\n### {title}\n" in text
    for said in ("82.00 ± 0.82 MB", "16,852", "does not grow measurably", "2. `LimitNOFILE=400000`"):
        assert said in text
    assert "1. `</table>|x' # y`" in text
    assert not re.search(r"(?<!\\)<", re.sub(r"`[^`\n]*`", "", text))
    assert limit_markdown(a_record()) == ""
