import io
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from connprobe.model import (
    Distribution,
    KernelFigures,
    ListenerFigures,
    ListenSocketFigures,
    ObserverFigures,
    ProbeUse,
    RunRecord,
)
from connprobe.report.html.sections import queues_table
from connprobe.report.kernel import render_kernel
from connprobe.report.layout import Page

Make = Callable[..., RunRecord]


def a_listener(**changes: Any) -> ListenerFigures:
    fields: dict[str, Any] = {
        "address": "127.0.0.1:8080",
        "depth_max": 1201,
        "capacity": 4097,
        "overflows": 23,
        "wait_ms": Distribution(count=1009, mean=2.5, p50=2.11, p90=8.0, p99=12.6, max=101.0),
        "source": "eBPF: raw tracepoint sk_data_ready",
        "complete": True,
        "sockets": (),
    }
    return ListenerFigures(**(fields | changes))


def a_socket(inode: int) -> ListenSocketFigures:
    return ListenSocketFigures(inode=inode, depth=0, depth_max=7, capacity=4097, overflows=0)


KERNEL = KernelFigures(
    bytes_per_connection=8300.0,
    slabs={"TCP": 5042.0, **{f"slab_{number}": 100.0 - number for number in range(10)}},
    objects_per_connection={"TCP": 2.0},
    connections=400_000,
    ends=2,
    source="/proc/slabinfo",
    complete=True,
)


def rendered(record: RunRecord, *, terminal: bool = False, width: int = 100, **environ: str) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, _environ={"TERM": "xterm", **environ})
    render_kernel(record, Page(console))
    return file.getvalue()


def page(record: RunRecord) -> str:
    return str(queues_table(record))


def row(text: str, name: str) -> list[str]:
    (found,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return found.split()


def test_waits_from_the_order_are_ranges_and_say_so(make_record: Make) -> None:
    least = Distribution(count=1009, mean=2.0, p50=0.31, p90=7.0, p99=9.96, max=88.0)
    record = make_record(listeners=(a_listener(wait_least_ms=least),))
    for text in (rendered(record, width=200), page(record)):
        for shown in ("0.31–2.11 ms", "9.96–12.6 ms", "88.0–101 ms", "first-in-first-out order"):
            assert shown in " ".join(text.split())
    assert "first-in-first-out" not in rendered(make_record(listeners=(a_listener(),)))


def test_the_accept_queue(make_record: Make) -> None:
    text = rendered(make_record(listeners=(a_listener(),)), width=200, terminal=True, NO_COLOR="1")
    assert row(text, "127.0.0.1:8080")[:10] == [
        "127.0.0.1:8080",
        *("1,201", "4,097", "23", "2.11", "ms", "12.6", "ms", "101", "ms"),
    ]
    assert "eBPF: raw tracepoint" in text


def test_what_is_not_known_is_a_dash_and_its_reason_is_said(make_record: Make) -> None:
    listener = a_listener(
        depth_max=None, capacity=None, overflows=None, wait_ms=None, reason="no netlink here"
    )
    text = rendered(make_record(listeners=(listener,)))
    assert row(text, "127.0.0.1:8080")[1:7] == ["–"] * 6
    assert "no netlink here" in text


def test_a_group_says_how_many_sockets_it_has(make_record: Make) -> None:
    group = a_listener(sockets=tuple(map(a_socket, range(21))))
    assert "21 sockets; eBPF" in rendered(make_record(listeners=(group,)))
    assert "sockets" not in rendered(make_record(listeners=(a_listener(sockets=(a_socket(7),)),)))


def test_more_listeners_than_a_page_holds_are_counted(make_record: Make) -> None:
    listeners = tuple(a_listener(address=f"127.0.0.1:{port}") for port in range(7001, 7024))
    text = rendered(make_record(listeners=listeners))
    assert "127.0.0.1:7010" in text
    assert "127.0.0.1:7011" not in text
    assert "and 13 more, in run.json" in text


def test_memory_by_slab_largest_first_the_rest_summed(make_record: Make) -> None:
    text = rendered(make_record(kernel=KERNEL))
    assert "both ends on this host" in text
    assert row(text, "in all")[2:4] == ["8.3", "kB"]
    assert row(text, "TCP") == ["TCP", "5.0", "kB", "2"]
    assert "slab_6" in text
    assert "slab_7" not in text
    assert row(text, "others") == ["others", "276", "B"]  # 93 + 92 + 91


def test_memory_of_some_sockets_alone_is_not_called_all(make_record: Make) -> None:
    some = replace(KERNEL, complete=False, reason="7 TCP sockets were added where 20 were expected")
    text = rendered(make_record(kernel=some))
    assert "of those seen" in text
    assert "in all" not in text


@pytest.mark.parametrize("width", [1, 20, 40, 51, 60, 69, 80, 120])
def test_no_figure_is_cut_and_no_table_has_two_blank_lines(width: int, make_record: Make) -> None:
    listener = a_listener(
        wait_ms=Distribution(count=9, mean=2.5, p50=124.0, p90=800.0, p99=2736.4, max=9101.0),
        overflows=12_345,
    )
    record = make_record(listeners=(listener,), kernel=KERNEL)
    text = rendered(record, width=width, terminal=True, NO_COLOR="1")
    for figure in ("1,201", "4,097", "12,345", "124 ms", "2,736 ms", "9,101 ms", "8.3 kB", "5.0 kB", "276 B"):
        assert figure in text
    assert "\n\n\n" not in text


def test_why_memory_is_approximate_and_what_helps(make_record: Make) -> None:
    kernel = KernelFigures(
        bytes_per_connection=8300.0, slabs={}, reason="slabinfo is closed", fix="run as root"
    )
    assert "slabinfo is closed; fix: run as root" in rendered(make_record(kernel=kernel))


def observed(*probes: ProbeUse) -> ObserverFigures:
    return ObserverFigures(cpu_s=1.0, pss_bytes=1, probes=probes)


def test_a_probe_that_serves_is_no_news(make_record: Make) -> None:
    probe = ProbeUse(name="accept_queue", source="eBPF: raw tracepoint", lost={"guessed": 3999})
    assert rendered(make_record(observer=observed(probe))) == ""


def test_a_probe_that_does_not_says_why_and_the_fix(make_record: Make) -> None:
    probe = ProbeUse(name="accept_wait", source=None, reason="no bcc", fix="apt-get install python3-bpfcc")
    text = rendered(make_record(observer=observed(probe)))
    assert "accept_wait: not answered; no bcc" in text
    assert "fix: apt-get install python3-bpfcc" in text


def test_a_probe_that_lost_much_says_how_much(make_record: Make) -> None:
    probe = ProbeUse(name="accept_queue", source="eBPF: x", lost={"guessed": 4001})
    assert "not counted: 4,001 guessed" in rendered(make_record(observer=observed(probe)))


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_is_harmless(terminal: bool, make_record: Make) -> None:
    bad = "\x1b[31m[bold]\x07\u202e[/nope]no\nforged"
    record = make_record(
        listeners=(a_listener(address=bad, source=bad, reason=bad),),
        kernel=KernelFigures(bytes_per_connection=1.0, slabs={bad: 1.0}, source=bad, reason=bad, fix=bad),
        observer=observed(ProbeUse(name=bad, source=bad, reason=bad, fix=bad, lost={bad: 9999})),
    )
    text = rendered(record, terminal=terminal, width=400, NO_COLOR="1")
    assert not any(each in text for each in ("\x1b[31m", "\x07", "\u202e", "\nforged"))
    assert "".join(text.split()).count("[bold][/nope]noforged") == 12 + (not terminal)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_any_width_will_do(width: int, make_record: Make) -> None:
    record = make_record(listeners=(a_listener(reason="a reason " * 20),), kernel=KERNEL)
    for terminal in (False, True):
        assert "1,201" in rendered(record, terminal=terminal, width=max(width, 60))
        rendered(record, terminal=terminal, width=width)


def test_a_pipe_gets_no_escape_sequences(make_record: Make) -> None:
    text = rendered(make_record(listeners=(a_listener(),), kernel=KERNEL))
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_what_is_true_of_every_listener_is_said_once(make_record: Make) -> None:
    listeners = tuple(a_listener(address=f"127.0.0.1:{port}", reason="of samples") for port in range(80, 87))
    assert rendered(make_record(listeners=listeners)).count("of samples") == 1
