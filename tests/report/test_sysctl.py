"""What a person reads of profiles: whole at any width, and nothing of a file is more than text."""

import io

import pytest
from rich.console import Console

from connprobe.model import SysctlChange
from connprobe.plan.sysctl.changes import Reading, compare
from connprobe.plan.sysctl.file import Assignment, Profile
from connprobe.report.sysctl import (
    render_changes,
    render_list,
    render_reverted,
    render_rows,
    render_standing,
    render_verdict,
)
from connprobe.session.sysctl.status import Standing
from connprobe.store.journal import UndoReport

PROFILE = Profile("evil", "/tmp/evil.conf", "about \x1b[2J[bold]it", ())
MEMORY = compare(Assignment(1, "net/ipv4/tcp_mem", "50576 64768 98152"), Reading("575802\t767736\t1151604"))
PORTS = compare(Assignment(2, "net/ipv4/ip_local_reserved_ports", "8080," * 200 + "9"), Reading(""))
RMEM = compare(Assignment(3, "net/core/rmem_max", "9"), Reading("5", "no", "the kernel has it read-only"))
GONE = compare(Assignment(4, "net/ipv4/no_such", "\x1b]0;x\x07y"), Reading(None))


def console(width: int = 80, *, terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=terminal, color_system=None), file


@pytest.mark.parametrize(
    ("width", "terminal"), [(80, False), (40, True), (60, True), (80, True), (200, True)]
)
def test_every_row_tells_its_effect_at_any_width(width: int, terminal: bool) -> None:
    out, file = console(width, terminal=terminal)
    render_rows(PROFILE, [MEMORY, PORTS, RMEM, GONE], out, 65536)
    shown = file.getvalue()
    words = " ".join(shown.split())
    for row in (MEMORY, RMEM):
        assert row.now is not None
        assert row.now in words
        assert row.wanted in words
    for effect in ("lowers", "not writable (raises)", "missing on this kernel", "differs"):
        assert effect in words
    assert "now 37.7 GB, 50.3 GB, 75.5 GB; the profile: 3.3 GB, 4.2 GB, 6.4 GB" in words
    assert "pages of 65,536 B" in words
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]it" in shown


def test_changes_name_what_stays_and_why() -> None:
    out, file = console()
    change = SysctlChange(key="net/ipv4/conf/eth0.1/x", before="", after="1")
    render_changes("title", [change], ["rounded"], ["not me"], out)
    assert file.getvalue().splitlines() == [
        "title",
        "  net.ipv4.conf.eth0/1.x  (empty) -> 1",
        "  note: rounded",
        "  left: not me",
    ]


def test_what_was_put_back_what_was_not() -> None:
    out, file = console()
    render_reverted("gigabit (id 1)", UndoReport(("a = 1",), ("b",), ("c",)), out)
    render_reverted("gigabit (id 2)", UndoReport(), out)
    assert file.getvalue().splitlines() == [
        "not reverted: gigabit (id 1)",
        "  restored: a = 1",
        "  left as it is: b",
        "  not restored: c",
        "reverted: gigabit (id 2)",
        "  nothing had to be written: every key had its old value",
    ]


def test_the_others() -> None:
    out, file = console()
    render_list([("gigabit", "what for", "/somewhere/gigabit.conf")], out)
    render_standing("none", [], out)
    render_standing("one", [Standing("a.b", "1", "2", None, "another namespace")], out)
    render_verdict([], "gigabit", False, out)
    render_verdict(["a.b"], "gigabit", True, out)
    shown = file.getvalue()
    assert "gigabit: /somewhere/gigabit.conf" in shown
    assert "nothing had to be changed" in shown
    assert "another namespace" in shown
    assert "ok: this kernel gives at least what gigabit asks" in shown
    assert "missed: this kernel differs from gigabit asks, in a.b" not in shown
    assert "missed: this kernel differs from what gigabit asks, in a.b" in shown
