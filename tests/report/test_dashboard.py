import io
from collections.abc import Callable
from typing import get_args

import pytest
from rich.console import Console
from rich.text import Text

from connprobe.model import KernelSample, QueueSample, Sample, ServerUse
from connprobe.model.sample import Phase
from connprobe.report.dashboard import Dashboard, progress
from connprobe.report.plain import PlainProgress

Make = Callable[..., Sample]
MakeServer = Callable[..., ServerUse]


def terminal(width: int = 80, height: int = 24, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True, newline="")
    return Console(file=file, width=width, height=height, force_terminal=True, _environ={})


def written(console: Console) -> str:
    assert isinstance(console.file, io.TextIOWrapper)
    raw = console.file.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(console.file.encoding)


def frames(console: Console) -> str:
    """All that was drawn, as text: the last frame is what comes after the last clearing."""
    return Text.from_ansi(written(console)).plain


def test_the_live_view_shows_what_matters(make_sample: Make, make_server: MakeServer) -> None:
    console = terminal()
    with Dashboard(console, asked=400_000, title="ws to 127.0.0.1:8080", hold_s=60) as view:
        view.update(make_sample(1.0, started=0, established=0, held=0, server=make_server(cpu_s=1.0)))
        view.update(
            make_sample(
                3.0,
                established=20_000,
                held=20_000,
                failures={"rejected": 13, "timeout": 1009, "reset": 0},
                drops={"eof": 7},
                server=make_server(cpu_s=2.5),
            ),
            44.0,
            "accept queue overflowed",
        )
    last = frames(console).rpartition("ws to 127.0.0.1:8080")[2]
    for expected in (
        *("20,000 of 400,000 held", "opening", "44 s left", "5.0%"),
        *("8,911/s now", "10,000/s mean", "55 in flight", "1.23 ms p50", "12.1 ms p99"),
        *("16.3 GB available", "1.2 GB RSS", "75% CPU", "12,407 fds", "2 processes"),
        *("1,022 in all", "1,009 timeout", "13 rejected", "7 eof", "accept queue overflowed"),
    ):
        assert expected in last
    assert "0 reset" not in last


def test_the_mean_rate_is_that_of_the_ramp(make_sample: Make) -> None:
    console = terminal()
    with Dashboard(console, asked=100, title="t", hold_s=60) as view:
        view.update(make_sample(1.0, started=0, established=0, held=0))
        view.update(make_sample(11.0, established=97, held=97))
        view.update(make_sample(41.0, phase="hold", established=97, held=97, rate_per_s=0.0))
    assert "9.7/s mean" in frames(console).rpartition("holding 60 s")[2]


def test_a_server_that_went_away_is_not_shown_as_it_was(make_sample: Make, make_server: MakeServer) -> None:
    console = terminal()
    with Dashboard(console, asked=100, title="t", hold_s=60) as view:
        view.update(make_sample(1.0, server=make_server()))
        view.update(make_sample(2.0, server=None))
    assert "gone or not readable" in frames(console)


def test_drawing_one_sample_twice_adds_nothing_to_the_history(make_sample: Make) -> None:
    console = terminal()
    with Dashboard(console, asked=12_345, title="t", hold_s=60) as view:
        for at_s in (1.0, 1.0, 2.0, 2.0, 2.0):
            view.update(make_sample(at_s))
    row = [line for line in frames(console).splitlines() if "of 12,345  " in line][-1]
    assert row.count("█") == 2


@pytest.mark.parametrize("height", [3, 10, 24, 60])
@pytest.mark.parametrize("width", [1, 7, 20, 39, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_every_terminal(
    width: int, height: int, encoding: str, make_sample: Make, make_server: MakeServer
) -> None:
    console = terminal(width, height, encoding)
    with Dashboard(console, asked=400_000, title="ws to ünïcode", hold_s=60) as view:
        view.update(make_sample(1.0, server=make_server(complete=False), drops={"no_source_port": 12_345}))
        view.update(make_sample(2.0, server=make_server(complete=False), failures={"eof": 3, "tls": 5}))
    text = frames(console)
    assert max(Text(line).cell_len for line in text.splitlines()) <= width
    assert encoding == "utf-8" or text.isascii()


def test_no_color_is_honoured(make_sample: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    with Dashboard(console, asked=100, title="t", hold_s=60) as view:
        view.update(make_sample(1.0, drops={"eof": 7}))
    assert isinstance(console.file, io.StringIO)
    assert not any(f"\x1b[{code}m" in console.file.getvalue() for code in (31, 32, 35, 36, 90))


def test_hostile_titles_and_notes_are_neutralised(make_sample: Make) -> None:
    for console in (terminal(), Console(file=io.StringIO(), width=80)):
        hostile = "\x1b]0;owned\x07\x1b[31m[bold]x[/nope]"
        with progress(console, asked=100, title=hostile, hold_s=60) as view:
            view.update(make_sample(1.0), None, hostile)
        text = console.file.getvalue() if isinstance(console.file, io.StringIO) else written(console)
        assert "[bold]x[/nope]" in text
        assert "\x1b]0" not in text
        assert "\x1b[31m" not in text


def test_lines_where_there_is_no_terminal(make_sample: Make, make_server: MakeServer) -> None:
    console = Console(file=io.StringIO(), width=40)
    view = progress(console, asked=400_000, title="ws to 127.0.0.1:8080", hold_s=60)
    assert isinstance(view, PlainProgress)
    with view:
        for at_s in range(1, 8):
            view.update(make_sample(float(at_s), server=make_server()))
        view.update(make_sample(8.0, phase="hold", drops={"eof": 7}), 60.0, "flat")
        view.update(make_sample(9.0, phase="hold"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "ws to 127.0.0.1:8080: opening 400,000, holding 60 s",
        "ramp 12,345/400,000 held, 8,911/s, 0 failed, p99 12.1 ms, server 1.2 GB",
        "ramp 12,345/400,000 held, 8,911/s, 0 failed, p99 12.1 ms, server 1.2 GB",
        "hold 12,345/400,000 held, 8,911/s, 0 failed, 7 dropped, p99 12.1 ms, 60 s left, flat",
    ]


def test_plain_lines_on_request_even_on_a_terminal() -> None:
    assert isinstance(progress(terminal(), asked=1, title="t", hold_s=1, plain=True), PlainProgress)
    assert isinstance(progress(terminal(), asked=1, title="t", hold_s=1), Dashboard)


def test_the_kernels_rows(make_sample: Make) -> None:
    queue = QueueSample(
        address="127.0.0.1:8080",
        sockets=1,
        depth=3,
        depth_max=101,
        capacity_each=4097,
        overflows=23,
        wait_p99_ms=12.6,
    )
    kernel = KernelSample(queues=(queue,), slab_bytes=1_700_000_000, softirq=0.104)
    console = terminal(100)
    with Dashboard(console, asked=400_000, title="ws", hold_s=60) as view:
        view.update(make_sample(1.0, kernel=kernel))
    last = frames(console)
    assert all(each in last for each in ("101 of 4,097 deepest", "23 overflows", "12.6 ms p99 wait"))
    assert all(each in last for each in ("1.7 GB slab", "10.4% softirq"))


def test_a_wait_that_is_inferred_is_a_range(make_sample: Make) -> None:
    queue = QueueSample(
        address="127.0.0.1:80",
        sockets=1,
        depth=3,
        depth_max=3,
        capacity_each=4,
        overflows=0,
        wait_p99_ms=12.6,
        wait_p99_least_ms=9.96,
    )
    console = terminal(100)
    with Dashboard(console, asked=23, title="ws", hold_s=60) as view:
        view.update(make_sample(1.0, kernel=KernelSample(queues=(queue,))))
    assert "9.96–12.6 ms p99 wait" in frames(console)


def test_overflows_stand_in_the_plain_lines(make_sample: Make) -> None:
    queue = QueueSample(
        address="127.0.0.1:80", sockets=1, depth=3, depth_max=3, capacity_each=4, overflows=1009
    )
    console = Console(file=io.StringIO(), width=80)
    with PlainProgress(console, asked=23, title="ws", hold_s=60) as view:
        view.update(make_sample(1.0, kernel=KernelSample(queues=(queue,))))
    assert isinstance(console.file, io.StringIO)
    assert "1,009 accept queue overflows" in console.file.getvalue()


def test_every_phase_of_a_limit_has_its_name(make_sample: Make) -> None:
    phases = get_args(Phase)
    console = terminal(100)
    with Dashboard(console, asked=12_345, title="limit", hold_s=None) as view:
        for at_s, phase in enumerate(phases):
            view.update(make_sample(float(at_s), phase=phase))
            assert len(frames(console).split("since start")) == at_s + 2
    text = frames(console)
    for said in (
        "waiting for memory to settle",
        "at the peak",
        "messaging",
        "on until it breaks",
        "starting",
    ):
        assert said in text


def test_where_it_goes_on_until_it_breaks_there_is_no_share(make_sample: Make) -> None:
    console = terminal(100)
    with Dashboard(console, asked=100, title="limit", hold_s=None) as view:
        view.update(make_sample(1.0, held=100, established=100))
        view.update(make_sample(2.0, phase="verify", held=1009, established=1009))
        view.update(make_sample(3.0, phase="drain", held=1009, established=1009))
    last = frames(console).rpartition("limit \u2500")[2]
    assert "1,009 held   on until it breaks" in frames(console)
    assert "1,009 held   closing all" in last
    assert "of 100 held" not in last
    assert "%" not in last.partition("3 s since start")[2].splitlines()[1]
    assert "of 1,009" in last  # the scale of the chart
    plain = Console(file=io.StringIO(), width=80)
    with PlainProgress(plain, asked=100, title="limit", hold_s=None) as lines:
        lines.update(make_sample(2.0, phase="verify", held=1009))
    assert isinstance(plain.file, io.StringIO)
    assert plain.file.getvalue().splitlines()[0] == "limit: opening 100"
    assert plain.file.getvalue().splitlines()[1].startswith("verify 1,009 held, ")


def test_waiting_between_steps_is_no_part_of_the_rate(make_sample: Make) -> None:
    console = terminal()
    with Dashboard(console, asked=100, title="t", hold_s=None) as view:
        view.update(make_sample(1.0, phase="start", started=0, established=0, held=0))
        view.update(make_sample(2.0, established=23, held=23))
        view.update(make_sample(9.0, phase="settle", established=23, held=23))
        view.update(make_sample(10.0, established=46, held=46))
        assert "23/s mean" in frames(console).rpartition("46 of 100")[2]
        view.update(make_sample(0.5, phase="start", started=0, established=0, held=0))  # the next trial
        view.update(make_sample(1.5, established=31, held=31))
    assert "31/s mean" in frames(console).rpartition("31 of 100")[2]


@pytest.mark.parametrize("asked", [10_000, 0], ids=["so many", "as many as there is time for"])
def test_of_connections_that_do_not_stay_those_that_are_over_are_shown(make_sample: Make, asked: int) -> None:
    console = terminal()
    now = {"phase": "load", "started": 2600, "held": 97, "in_flight": 3}
    with Dashboard(console, asked=asked, title="ws to x", hold_s=None, stays=False) as view:
        view.update(make_sample(0.0, **(now | {"started": 0, "established": 0, "held": 0})))
        view.update(make_sample(1.0, established=1597, **now))
        view.update(make_sample(2.0, established=2597, **now))
    last = frames(console).rpartition("ws to x")[2]
    assert ("2,500 of 10,000 over" if asked else "2,500 over") in last
    assert "1,298/s mean" in last
    assert "loading" in last
    assert "held" not in last
    piped = io.StringIO()
    with PlainProgress(
        Console(file=piped, width=200), asked=asked, title="ws to x", hold_s=None, stays=False
    ) as lines:
        lines.update(make_sample(2.0, established=2597, **now))
    first, second = piped.getvalue().splitlines()
    assert first == ("ws to x: opening 10,000" if asked else "ws to x")
    assert second.startswith("load 2,500/10,000 over, " if asked else "load 2,500 over, ")
