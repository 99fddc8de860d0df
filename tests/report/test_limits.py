import io
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from connprobe.model import Limit
from connprobe.plan.limits.headline import headline, rounded
from connprobe.plan.limits.limits import MOST
from connprobe.plan.limits.resources import NAMES, capacity
from connprobe.report import format as fmt
from connprobe.report.format import DASH
from connprobe.report.layout import Page
from connprobe.report.limitrows import limit_rows, shown
from connprobe.report.limits import render_limits
from report.limited import LIMITS, limit

CPU = limit(
    "cpu",
    45_454,
    40_000,
    50_000,
    capacity=1.0,
    per_connection=2.2e-5,
    source="/proc/PID/stat",
    fix="more processes",
    note="at one message a second on each connection",
)
QUEUE = limit(
    "accept_queue",
    13_657,
    13_657,
    13_657,
    capacity=4097.0,
    per_connection=0.3,
    unit="connections",
    used=120.0,
)


def rendered(limits: Sequence[Limit], *, width: int = 100, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, no_color=True, _environ={})
    render_limits(limits, headline(limits, 4000), 4000, Page(console))
    return file.getvalue()


def line_with(text: str, what: str) -> str:
    return next(line for line in text.splitlines() if what in line)


def test_the_sentence_comes_first_and_the_first_limit_is_marked() -> None:
    text = rendered(LIMITS)
    assert text.splitlines()[0] == headline(LIMITS, 4000)
    first = line_with(text, "1. the V8 heap (binds first)").split()
    assert first[-8:] == ["17,000", f"16,300{DASH}17,500", "80", "MB", "3.7", "MB", "4,733", "B"]
    assert text.count("binds first") == text.count("1. the V8 heap")
    assert "1 descriptor" in line_with(text, "2. file descriptors  ")
    assert "the client's source ports" in text
    assert "2. LimitNOFILE=400000" in text


def test_a_limit_of_the_client_is_not_taken_for_the_servers() -> None:
    ports, heap = replace(LIMITS[2], connections=9000, low=9000, high=9000), LIMITS[0]
    text = rendered([ports, heap], width=120, terminal=True)
    assert "1. the client's source ports (binds first)" in text
    assert "2. the V8 heap (the server's first)" in text


def test_one_that_may_bind_before_the_first_is_marked() -> None:
    close = replace(LIMITS[1], connections=17_100, low=17_100, high=17_100)
    text = rendered([LIMITS[0], close], width=120, terminal=True)
    assert "file descriptors (perhaps first: too close to tell)" in text


def test_what_has_no_upper_end_says_no_number_for_it() -> None:
    text = rendered([LIMITS[0], replace(CPU, high=MOST)])
    assert "\u2265 40,000" in text
    assert "9.0" not in text


def test_those_far_away_are_one_line() -> None:
    text = rendered(LIMITS)
    assert "2 more beyond 100 times the first, from 5,200,000 on: epoll watches" in text
    assert "9,223,372" not in text
    assert "more beyond" not in rendered(LIMITS[:3])


def test_two_of_the_same_name_are_one_of_those_far_away() -> None:
    far = [replace(LIMITS[5], resource="threads", scope="host", source=source) for source in ("a", "b")]
    assert "1 more beyond 100 times the first, from 5,200,000 on: threads, host (run.json)" in rendered(
        [LIMITS[0], *far]
    )


def test_limits_of_traffic_stand_apart_with_units_of_their_own() -> None:
    text = rendered([QUEUE, LIMITS[0], CPU])
    held, _, traffic = text.partition("Limits of traffic")
    assert "1. the V8 heap (binds first)" in held  # though the queue's number is the lower one
    assert "accept queue" not in held
    for said in ("2. the accept queue", "13,657/s", "4,097 places", "300 ms of stall", "1 CPU", "0.022 ms/s"):
        assert said in traffic
    assert "3: at one message a second on each connection" in traffic


def test_a_note_of_several_is_said_once() -> None:
    noted = [replace(it, note=f"number {index}; of each process") for index, it in enumerate(LIMITS[:2])]
    text = rendered(noted)
    assert text.count("of each process") == 1
    assert "1, 2: of each process" in text
    assert "2: number 1" in text


def test_nothing_known_is_nothing_printed() -> None:
    assert rendered([]) == ""


def test_a_terminal_without_unicode_is_enough() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    render_limits(LIMITS, None, 4000, Page(Console(file=file, width=80, _environ={})))
    assert "16,300-17,500" in raw.getvalue().decode("ascii")


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_server_says_is_neutralised(terminal: bool) -> None:
    evil = "\x1b[31m[bold]\x07\u202e[/nope]x\nforged"
    one = replace(LIMITS[0], resource=evil, scope=evil, source=evil, fix=evil, note=evil)
    text = rendered([one], terminal=terminal, width=120)
    assert "[bold][/nope]x forged" in text
    assert not any(bad in text for bad in ("\x1b[31m", "\x07", "\u202e", "\nforged"))


COUNTS = st.integers(0, 2**53)
LIMIT = st.builds(
    lambda resource, numbers, size, each, unit, used, fix: limit(
        resource,
        numbers[1],
        numbers[0],
        numbers[2],
        capacity=float(size),
        per_connection=each,
        unit=unit,
        used=used,
        fix=fix,
    ),
    st.sampled_from([name for name in NAMES if name not in ("accept_queue", "cpu")]),
    st.lists(COUNTS, min_size=3, max_size=3).map(sorted),
    st.integers(1, 10**15),
    st.floats(1e-3, 1e9),
    st.sampled_from(["bytes", "count", "connections"]),
    st.none() | st.floats(0, 1e15),
    st.text("abc -=/", min_size=1, max_size=150).map(lambda text: f"sysctl -w {text}x"),
)


@settings(deadline=None, max_examples=60)
@given(found=st.lists(LIMIT, min_size=1, max_size=12), width=st.integers(1, 130), terminal=st.booleans())
def test_no_number_and_no_fix_is_lost_at_any_width(found: list[Limit], width: int, terminal: bool) -> None:
    found.sort(key=lambda it: it.connections)
    text = rendered(found, width=width, terminal=terminal)
    for it in found:
        if it.connections <= max(1, found[0].connections) * 100:
            number, low, high = rounded(it)
            assert it.fix in text
            assert fmt.many(number) in text
            to = f"\u2265 {fmt.many(low)}" if high >= MOST else f"{fmt.many(low)}{DASH}{fmt.many(high)}"
            assert low == high or to in text
            assert it.unit != "bytes" or capacity(it) in text
            assert it.unit != "bytes" or fmt.nbytes(it.used) in text
    for row in limit_rows(shown(found).held).rows:
        assert all(cell in text for cell in row[1:-1])
