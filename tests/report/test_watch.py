import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from connprobe.model import (
    WATCH_SCHEMA,
    CpuShares,
    Distribution,
    KernelSample,
    ListenerFigures,
    ObserverFigures,
    ProbeUse,
    QueueSample,
    ServerUse,
    Verdict,
    WatchRecord,
    WatchSample,
)
from connprobe.report.watch import render_watch, watch_view

HOSTILE = "\x1b[31m[bold]\x07\u202e[/nope]no\nforged"


def a_queue(**changes: Any) -> QueueSample:
    fields: dict[str, Any] = {
        "address": "127.0.0.1:8080",
        "sockets": 2,
        "depth": 3,
        "depth_max": 101,
        "capacity_each": 4097,
        "overflows": 23,
        "enqueued": 5000,
        "accepted": 4997,
        "wait_p50_ms": 2.11,
        "wait_p99_ms": 12.6,
    }
    return QueueSample(**(fields | changes))


def a_sample(at_s: float, *queues: QueueSample, **changes: Any) -> WatchSample:
    fields: dict[str, Any] = {
        "at_s": at_s,
        "lateness_s": 0.0,
        "kernel": KernelSample(
            queues=queues,
            slab_bytes=1_700_000_000,
            softirq=0.1,
            counters={"ListenOverflows": 47, "InSegs": 7},
        ),
        "cpu": CpuShares(user=0.31, system=0.2, softirq=0.1, steal=0.0, idle=0.39),
        "memory_available_bytes": 16_300_000_000,
        "server": ServerUse(
            pids=(101, 103),
            rss_bytes=1_200_000_000,
            pss_bytes=None,
            cpu_s=at_s / 4,
            fds=12_407,
            threads=7,
            complete=True,
        ),
        "observer_cpu_s": 0.02 * at_s,
        "observer_pss_bytes": 31_000_000,
    }
    return WatchSample(**(fields | changes))


def a_record(**changes: Any) -> WatchRecord:
    fields: dict[str, Any] = {
        "schema": WATCH_SCHEMA,
        "connprobe": "0.1.0",
        "command": "watch",
        "started_at": "2026-01-02T03:04:05Z",
        "watched": "port 8080",
        "watched_s": 60.0,
        "listeners": (
            ListenerFigures(
                address="127.0.0.1:8080",
                depth_max=101,
                capacity=4097,
                overflows=23,
                wait_ms=Distribution(count=1009, mean=2.5, p50=2.11, p90=8.0, p99=12.6, max=101.0),
                source="eBPF: raw tracepoint sk_data_ready",
            ),
        ),
        "counters": {"ListenOverflows": 47, "ListenDrops": 0, "SyncookiesSent": None},
        "server": None,
        "observer": ObserverFigures(cpu_s=1.2, pss_bytes=31_000_000, samples=61, late_samples=3),
        "verdicts": (Verdict(level="warning", text="The queue overflowed.", fix="a larger backlog"),),
        "unknown": {"server": "no process was found"},
    }
    return WatchRecord(**(fields | changes))


def screen(width: int = 100, *, terminal: bool = True, encoding: str = "utf-8", **environ: str) -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True, newline="")
    environment = {"TERM": "xterm-256color", **environ}
    return Console(file=file, width=width, height=50, force_terminal=terminal, _environ=environment)


def written(console: Console) -> str:
    assert isinstance(console.file, io.TextIOWrapper)
    raw = console.file.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(console.file.encoding)


def drawn(
    console: Console, *samples: WatchSample, watched: str = "port 8080", left_s: float | None = 53
) -> str:
    """The last frame, as text."""
    with watch_view(console, watched, plain=False) as view:
        for sample in samples:
            view.update(sample, left_s)
    return Text.from_ansi(written(console)).plain.rpartition("connprobe watch")[2]


def summary(record: WatchRecord, console: Console | None = None, results: str | None = None) -> str:
    console = console or screen(terminal=False)
    render_watch(record, console, results=results)
    return written(console)


def test_the_live_table() -> None:
    frame = drawn(screen(140), a_sample(5.0, a_queue()), a_sample(7.0, a_queue(enqueued=7018)))
    for expected in (
        *(
            "port 8080",
            "7 s",
            "53 s left",
            "127.0.0.1:8080",
            "101",
            "4,097",
            "1,009/s",
            "23",
            "2.11 ms",
            "12.6 ms",
        ),
        *("1.2 GB RSS", "25.0% CPU", "12,407 fds", "7 threads, 2 processes"),
        *("16.3 GB available", "1.7 GB slab", "31.0% user", "20.0% system", "10.0% softirq", "39.0% idle"),
        *("47 accept queue overflows", "31.0 MB PSS", "2.0% CPU"),
    ):
        assert expected in frame
    assert "InSegs" not in frame


def test_unknown_figures_are_dashes() -> None:
    bare = QueueSample(
        address="[::1]:80", sockets=1, depth=7, depth_max=7, capacity_each=None, overflows=None
    )
    frame = drawn(screen(), a_sample(1.0, bare, cpu=None, server=None, observer_pss_bytes=None))
    (row,) = [line for line in frame.splitlines() if "[::1]:80" in line]
    assert row.split() == ["[::1]:80", "1", "7", "7", *"–––––"]
    assert "server" not in frame


def test_nothing_that_listens_is_said() -> None:
    assert "nothing listens there now" in drawn(screen(), a_sample(1.0))


def test_the_deepest_queues_come_first_and_the_rest_is_counted() -> None:
    queues = [a_queue(address=f"127.0.0.1:{7000 + depth}", depth_max=depth) for depth in range(1, 24)]
    frame = drawn(screen(), a_sample(1.0, *queues))
    assert frame.index("127.0.0.1:7023") < frame.index("127.0.0.1:7012")
    assert "127.0.0.1:7011" not in frame
    assert "and 11 more" in frame


def test_a_listener_that_comes_later_has_no_rate_at_first() -> None:
    frame = drawn(screen(), a_sample(1.0), a_sample(2.0, a_queue(enqueued=1009)))
    (row,) = [line for line in frame.splitlines() if "127.0.0.1:8080" in line]
    assert "/s" not in row


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_lines_stay_within_the_terminal(width: int) -> None:
    frame = drawn(screen(width), a_sample(5.0, a_queue()), a_sample(7.0, a_queue(enqueued=7018)))
    assert max(len(line) for line in frame.splitlines()) <= width + len("connprobe watch")


def test_no_color_is_no_color() -> None:
    console = screen(NO_COLOR="1")
    drawn(console, a_sample(5.0, a_queue()))
    assert not any(f"\x1b[{code}" in written(console) for code in ("31m", "36m", "1;31m", "33m"))


def test_the_live_view_leaves_nothing_behind() -> None:
    console = screen()
    drawn(console, a_sample(5.0, a_queue()))
    assert written(console).rstrip("\r\n").endswith("\x1b[2K")


@pytest.mark.parametrize(("terminal", "plain"), [(False, False), (True, True)])
def test_lines_where_there_is_no_terminal_or_they_are_asked_for(terminal: bool, plain: bool) -> None:
    console = screen(terminal=terminal)
    with watch_view(console, "port 8080", plain=plain) as view:
        for at_s in (0.5, 1.5, 5.4, 5.5):
            view.update(a_sample(at_s, a_queue(), a_queue(depth_max=7, overflows=None)), None)
    lines = written(console).splitlines()
    assert lines[0] == "watching port 8080"
    assert len(lines) == 3
    assert lines[2] == ("6 s, 2 listeners, deepest queue 101, 23 overflows, server 1.2 GB, 12,407 fds")
    assert "\x1b" not in written(console)


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_is_harmless(terminal: bool) -> None:
    console = screen(200, terminal=terminal, NO_COLOR="1")
    with watch_view(console, HOSTILE, plain=False) as view:
        view.update(a_sample(1.0, a_queue(address=HOSTILE)), None)
    render_watch(
        a_record(
            watched=HOSTILE,
            listeners=(),
            counters={HOSTILE: 7},
            observer=ObserverFigures(
                cpu_s=1.0, pss_bytes=None, probes=(ProbeUse(name=HOSTILE, source=None, reason=HOSTILE),)
            ),
            verdicts=(Verdict(level="bad", text=HOSTILE, fix=HOSTILE),),
            unknown={HOSTILE: HOSTILE},
        ),
        console,
        results=HOSTILE,
    )
    text = written(console)
    assert not any(bad in text for bad in ("\x1b[31m", "\x07", "\u202e", "\nforged"))
    assert "".join(text.split()).count("[bold][/nope]noforged") >= 9


def test_a_terminal_without_unicode_is_enough() -> None:
    console = screen(encoding="ascii")
    drawn(console, a_sample(1.0, a_queue(wait_p50_ms=None)))
    assert "Watched port 8080" in summary(a_record(), console)


def test_a_wait_that_is_inferred_is_shown_as_a_range() -> None:
    console = screen()
    drawn(console, a_sample(1.0, a_queue(wait_p50_least_ms=0.31, wait_p99_least_ms=9.96)))
    text = written(console)
    assert "0.31–2.11 ms" in text
    assert "9.96–12.6 ms" in text


def test_the_summary() -> None:
    text = summary(a_record(), results="/a/directory")
    assert text.splitlines()[0] == "Watched port 8080 for 60 s."
    for expected in ("127.0.0.1:8080", "4,097", "2.11 ms", "61", "3 late", "1.2 s", "2.0%", "31.0 MB"):
        assert expected in text
    assert "ListenOverflows" in text
    assert "ListenDrops" not in text
    assert "warning: The queue overflowed." in text
    assert "fix: a larger backlog" in text
    assert "no process was found" in text
    assert text.splitlines()[-1].endswith("/a/directory")
    assert "\x1b" not in text


def test_a_watching_that_saw_nothing_says_so() -> None:
    record = a_record(
        watched_s=0.0, listeners=(), counters={}, verdicts=(), unknown={"listeners": "nothing listened there"}
    )
    text = summary(record)
    assert "nothing listened there" in text
    assert "Accept queue" not in text
