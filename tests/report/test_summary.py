import io
from collections.abc import Callable

import pytest
from rich.console import Console

from connprobe.model import HoldRequest, KernelFigures, Pings, Reconnects, RunRecord, Verdict
from connprobe.report.summary import headline, render_summary

Make = Callable[..., RunRecord]
PATH = "/a/directory/with/a/rather/long/name/that/no/terminal/is/wide/enough/for/results/x-hold-127.0.0.1"


def rendered(record: RunRecord, *, terminal: bool = False, width: int = 80, path: str | None = PATH) -> str:
    file = io.StringIO()
    render_summary(
        record, Console(file=file, width=width, force_terminal=terminal, _environ={}), results=path
    )
    return file.getvalue()


def test_the_answer_comes_first_on_one_line_when_piped(make_record: Make) -> None:
    first = rendered(make_record()).splitlines()[0]
    assert first == (
        "Held 400,000 of 400,000 WebSocket connections to 127.0.0.1:8080 for 60 s; 0 failed, 0 dropped."
    )


def test_the_headline_says_how_a_run_ended(make_record: Make) -> None:
    http = HoldRequest(target="x:1", count=1, protocol="http")
    record = make_record(outcome="interrupted", requested=1, held=0, request=http, hold_s=0.5)
    assert headline(record).startswith("Interrupted. Held 0 of 1 HTTP connection to")
    assert headline(make_record(outcome="failed")).startswith("The run failed. Held")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "answered a ping"),
        ({"request": HoldRequest(target="x:1", count=1, protocol="tcp")}, "no end of file"),
        ({"outcome": "interrupted"}, "without the check"),
        ({"unknown": {"held": "one worker did not answer"}}, "one worker did not answer"),
    ],
)
def test_it_says_how_held_was_checked(changes: dict[str, object], said: str, make_record: Make) -> None:
    assert said in rendered(make_record(**changes))


def test_figures(make_record: Make) -> None:
    text = rendered(
        make_record(
            pings=Pings(sent=800_011, answered=800_009),
            reconnects=Reconnects(attempts=23, successes=19, given_up=2),
            kernel=KernelFigures(bytes_per_connection=7263.0, slabs={}),
            not_attempted=31,
        )
    )
    for expected in (
        *("44.9 s", "8,911/s on average", "2.11 ms", "1.23 ms", "4.50 ms", "12.1 ms", "340 ms"),
        *("37.1 MB", "93 B", "14.2 s", "21 workers", "50.0 MB", "1.4 GB", "3.3 kB", "2 processes"),
        *("800,011", "800,009 answered", "19 succeeded, 2 given up", "7.3 kB", "not attempted", "31"),
        *("107 samples, 3 late", "no inspector"),
    ):
        assert expected in text


def test_causes_come_with_their_details_side_and_fix(make_record: Make) -> None:
    text = rendered(
        make_record(
            failed=1251,
            failures={"rejected": 20, "timeout": 1231, "eof": 0},
            dropped=7,
            drops={"reset": 7},
            failure_details={"rejected": {"503 Service Unavailable": 13, "404 Not Found": 7}},
        ),
        width=100,
    )
    assert text.index("1,231  timeout") < text.index("20  rejected") < text.index("7  reset")
    busy = text[text.index("13 × 503 Service Unavailable") : text.index("7 × 404 Not Found")]
    assert "(server side)" in busy
    assert "HAProxy maxconn" in busy
    assert "--path" in text[text.index("404 Not Found") :]
    assert "0  eof" not in text


def test_many_details_are_cut_and_the_rest_is_counted(make_record: Make) -> None:
    details = {f"kind {number}": number for number in range(1, 12)}
    text = rendered(make_record(failures={"protocol": 66}, failure_details={"protocol": details}))
    assert "kind 11" in text
    assert "kind 6" not in text
    assert "and 6 more kinds" in text


def test_details_stand_with_the_phase_they_belong_to(make_record: Make) -> None:
    record = make_record(
        failures={"timeout": 3},
        drops={"timeout": 5},
        failure_details={"timeout": {"no answer to SYN": 3}},
        drop_details={"timeout": {"no pong": 5}},
    )
    text = rendered(record)
    assert text.index("no answer to SYN") < text.index("Dropped") < text.index("no pong")


def test_what_was_not_measured_is_a_dash_with_its_reason(make_record: Make) -> None:
    reasons = {"server": "no process listens here", "handshake_ms": "nothing was established"}
    text = rendered(make_record(server=None, handshake_ms=None, held=0, unknown=reasons))
    assert text.count("no process listens here") == 2
    assert text.count("nothing was established") == 2
    assert "–" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_paths_and_fixes_of_verdicts_are_never_broken(terminal: bool, make_record: Make) -> None:
    fix = "sysctl -w " + " ".join(f"net.core.number_{number}=65535" for number in range(7))
    verdict = Verdict(level="warning", text="The accept queue overflowed.", fix=fix)
    text = rendered(make_record(verdicts=(verdict,)), terminal=terminal)
    assert text.splitlines()[-1].endswith(PATH)
    assert fix in text


def test_a_pipe_gets_neither_colour_nor_blanks_at_line_ends(make_record: Make) -> None:
    text = rendered(make_record(failures={"timeout": 3}), width=40)
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "each answered a ping with its pong in the last check" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_server_says_is_neutralised(terminal: bool, make_record: Make) -> None:
    hostile = "\x1b[31m[bold]\x07\x9b2J\u202e[/nope]503\nforged line"
    record = make_record(
        target=hostile,
        failures={"rejected": 3},
        failure_details={"rejected": {hostile: 3}},
        verdicts=(Verdict(level="bad", text=hostile, fix=hostile),),
        unknown={"runtime": hostile},
    )
    text = rendered(record, terminal=terminal, width=200, path=hostile)
    assert text.count("[bold][/nope]503 forged line") == 6
    assert not any(bad in text for bad in ("\x1b[31m", "\x07", "\x9b", "\u202e", "\nforged"))


def test_a_terminal_without_unicode_is_enough(make_record: Make) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    record = make_record(
        server=None, failures={"rejected": 3}, failure_details={"rejected": {"503 überfüllt": 3}}
    )
    render_summary(record, Console(file=file, width=80, _environ={}))
    assert "3 x 503 ?berf?llt" in raw.getvalue().decode("ascii")


@pytest.mark.parametrize("width", [1, 20, 39, 40, 61, 80, 120])
def test_no_width_cuts_a_figure(width: int, make_record: Make) -> None:
    text = rendered(make_record(), terminal=True, width=width)
    for figure in ("400,000", "8,911/s", "44.9 s", "2.11 ms", "340 ms", "1.4 GB"):
        assert figure in text
