"""Profiles beside the kernel's values, what was applied and what came back, for a person on stdout."""

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.text import Text

from connprobe.model import SysctlChange
from connprobe.plan.sysctl.changes import Row, in_bytes
from connprobe.plan.sysctl.file import Profile
from connprobe.plan.sysctl.keys import KEYS, dotted
from connprobe.report import format as fmt
from connprobe.report.layout import Page

_LONGEST = 60  # of a value; check --json has it whole
_STYLES = {"raises": "green", "lowers": "bold red", "raises and lowers": "bold red", "differs": "yellow"}


class UndoResult(Protocol):
    """As `store.journal.UndoReport`."""

    @property
    def removed(self) -> tuple[str, ...]: ...
    @property
    def kept(self) -> tuple[str, ...]: ...
    @property
    def pending(self) -> tuple[str, ...]: ...


class KeyState(Protocol):
    """As `session.sysctl_status.Standing`."""

    @property
    def key(self) -> str: ...
    @property
    def was(self) -> str: ...
    @property
    def set_to(self) -> str: ...
    @property
    def now(self) -> str | None: ...
    @property
    def state(self) -> str: ...


def render_list(profiles: Sequence[tuple[str, str, str]], console: Console) -> None:
    """Prints (name, what it is, where it is) of each profile."""
    page = Page(console)
    page.table([(page.text(name, "bold"), about) for name, about, _ in profiles])
    page.heading("Where they are")
    for name, _, path in profiles:
        page.line(f"  {name}: {path}")


def render_rows(profile: Profile, rows: Sequence[Row], console: Console, page_bytes: int) -> None:
    """Prints the table of `show` and `check`, and under it what the keys mean."""
    page = Page(console)
    page.line((profile.name, "bold"), f": {profile.about}" if profile.about else "")
    page.line(f"  from {profile.source}")
    cells = [[dotted(row.key), _value(row.now), _value(row.wanted), *_effect(row)] for row in rows]
    _grid(page, ("key", "now", "profile", "effect"), cells)
    page.heading("What the keys are")
    for row in rows:
        known = KEYS.get(row.key)
        page.line(
            "  ", (dotted(row.key), "bold"), f": {known.meaning if known else 'not known to connprobe'}"
        )
        if known and known.unit == "pages":
            now = in_bytes(row.key, row.now or "", page_bytes).strip(" ()")
            then = in_bytes(row.key, row.wanted, page_bytes).strip(" ()")
            page.line(f"      pages of {page_bytes:,} B: now {now or fmt.DASH}; the profile: {then}")
        if row.problem:
            page.line(f"      {row.problem}")


def render_verdict(failing: Sequence[str], name: str, exact: bool, console: Console) -> None:
    """Prints how `check` ended."""
    page = Page(console)
    page.console.print()
    how = "differs from what" if exact else "gives less than"
    if failing:
        page.line(("missed", "bold red"), f": this kernel {how} {name} asks, in {', '.join(failing)}")
    else:
        also = "gives exactly what" if exact else "gives at least what"
        page.line(("ok", "green"), f": this kernel {also} {name} asks")


def render_changes(
    title: str, changes: Sequence[SysctlChange], lines: Sequence[str], left: Sequence[str], console: Console
) -> None:
    """Prints what was written, or would be, what the kernel made of it, and what stays and why."""
    page = Page(console)
    page.line((title, "bold"))
    if changes:
        page.table(
            [(dotted(it.key), f"{it.before or '(empty)'} -> {it.after or '(empty)'}") for it in changes]
        )
    for line in lines:
        page.line("  ", ("note: ", "yellow"), line)
    for line in left:
        page.line("  ", ("left: ", "yellow"), line)


def render_lines(lines: Sequence[str], console: Console) -> None:
    page = Page(console)
    for line in lines:
        page.line(line)


def render_reverted(who: str, report: UndoResult, console: Console) -> None:
    """Prints what one apply's undoing came to."""
    page = Page(console)
    page.line(("not reverted" if report.pending else "reverted", "bold"), f": {who}")
    for what in report.removed:
        page.line("  ", ("restored: ", "green"), what)
    for what in report.kept:
        page.line("  ", ("left as it is: ", "yellow"), what)
    for what in report.pending:
        page.line("  ", ("not restored: ", "bold red"), what)
    if not (report.removed or report.kept or report.pending):
        page.line("  nothing had to be written: every key had its old value")


def render_standing(title: str, keys: Sequence[KeyState], console: Console) -> None:
    """Prints one apply with its keys."""
    page = Page(console)
    page.line((title, "bold"))
    rows = [
        [
            key.key,
            _value(key.was),
            _value(key.set_to),
            _value(key.now),
            key.state,
            "green" if key.state == "as set" else "bold red",
        ]
        for key in keys
    ]
    if rows:
        _grid(page, ("key", "before", "set to", "now", "state"), rows)
    else:
        page.line("  nothing had to be changed")


def _grid(page: Page, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table where the page is wide enough, else a few lines for each row: no value is ever cut.

    rows: a cell for each of `header`, then the style of the last one.
    """
    columns = len(header)
    widest = [max(len(row[index]) for row in (*rows, header)) for index in range(columns)]
    if sum(widest) + 2 * columns + 2 <= page.width:
        table: list[list[str | Text]] = [
            [*row[: columns - 1], page.text(*row[columns - 1 :])] for row in rows
        ]
        page.table(table, left=columns, header=header)
        return
    for row in rows:
        page.line("  ", (row[0], "bold"), ": ", (row[columns - 1], row[columns]))
        for name, cell in zip(header[1 : columns - 1], row[1 : columns - 1], strict=True):
            page.line(f"      {name}: {cell}")


def _effect(row: Row) -> tuple[str, str]:
    """In words, and its style."""
    if row.writable == "no" and row.unequal:
        return f"not writable ({row.effect})", "yellow"
    effect = "missing on this kernel" if row.effect == "missing" else row.effect
    return effect, _STYLES.get(row.effect, "dim")


def _value(value: str | None) -> str:
    if value is None:
        return fmt.DASH
    return fmt.printable(value, limit=_LONGEST) or '""'
