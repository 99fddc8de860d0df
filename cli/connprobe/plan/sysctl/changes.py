"""What a profile would do to the values that the kernel has now: raise, lower, nothing. Pure.

A value may have several components, each compared on its own. Where nobody wrote down in which direction
a key gives more, it is never said to be raised or lowered: it only "differs".
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from connprobe.model import SysctlChange
from connprobe.plan.sysctl.file import Assignment
from connprobe.plan.sysctl.keys import KEYS, NUMBER, More, dotted, more_of

Effect = Literal["raises", "lowers", "raises and lowers", "same", "differs", "missing", "not readable"]
# no: for nobody (mode bits, or /proc/sys is mounted read-only). not us: for root, or with a capability
Writable = Literal["yes", "not us", "no"]


class Reading(NamedTuple):
    """A key as it is on this host. value None: there is no such key here, or `problem` forbids reading it."""

    value: str | None
    writable: Writable = "yes"
    problem: str = ""  # why it cannot be read, or written


class Row(NamedTuple):
    """One key of a profile beside the kernel's value. Values have single spaces between components."""

    key: str
    now: str | None
    wanted: str
    effect: Effect
    raised: str  # what never lowering comes to: the larger of each component
    writable: Writable
    problem: str
    optional: bool

    @property
    def gives_less(self) -> bool:
        return self.effect in ("raises", "raises and lowers")

    @property
    def unequal(self) -> bool:
        return self.now is not None and self.effect != "same"

    def target(self, exact: bool) -> str | None:
        """What is to be written, None: nothing."""
        value = self.wanted if exact else self.raised
        return None if self.now is None or value == self.now else value


def compare(assignment: Assignment, reading: Reading) -> Row:
    """One row. The values are compared by component, those of unequal or unknown kind as text."""
    wanted = normal(assignment.value)
    now = None if reading.value is None else normal(reading.value)

    def row(effect: Effect, raised: str) -> Row:
        return Row(
            assignment.key,
            now,
            wanted,
            effect,
            raised,
            reading.writable,
            reading.problem,
            assignment.optional,
        )

    if now is None:
        return row("not readable" if reading.problem else "missing", wanted)
    if now == wanted:
        return row("same", now)
    pairs = list(zip(now.split(" "), wanted.split(" "), strict=False))
    more = more_of(assignment.key)
    if more is None or now.count(" ") != wanted.count(" ") or not all(_known(more, *pair) for pair in pairs):
        return row("differs", now)
    raised = [_larger(more, index, *pair) for index, pair in enumerate(pairs)]
    up = any(value != have for value, (have, _) in zip(raised, pairs, strict=True))
    down = any(value != want for value, (_, want) in zip(raised, pairs, strict=True))
    return row("raises and lowers" if up and down else "raises" if up else "lowers", " ".join(raised))


def changes(rows: Iterable[Row], exact: bool) -> tuple[SysctlChange, ...]:
    """What to write, in the order of the profile."""
    return tuple(
        SysctlChange(key=row.key, before=row.now, after=target, optional=row.optional)
        for row in rows
        if row.now is not None and row.writable != "no" and (target := row.target(exact)) is not None
    )


def left(row: Row, exact: bool, page_bytes: int) -> str | None:
    """Why a key does not get the value of the profile, as a sentence; None: it gets it, or has it."""
    key = dotted(row.key)
    if row.effect == "missing":
        return f"{key}: missing on this kernel, or in this network namespace"
    if row.effect == "not readable":
        return f"{key}: {row.problem}, so it could not be put back"
    if row.effect == "same":
        return None
    if row.writable == "no":
        return f"{key}: not writable, stays {row.now}: {row.problem}"
    if exact or row.effect == "raises":
        return None
    now = f"{row.now}{in_bytes(row.key, row.now or '', page_bytes)}"
    then = f"{row.wanted}{in_bytes(row.key, row.wanted, page_bytes)}"
    if row.effect == "differs":
        return f"{key}: stays {now}: whether {then} is more is not known; --exact writes it"
    if row.effect == "lowers":
        return f"{key}: stays {now}: the profile would lower it to {then}"
    return f"{key}: raised to {row.raised}, as the profile would lower {now} in part, by {then}"


def normal(value: str) -> str:
    """The kernel separates components by tabs, people by spaces."""
    return " ".join(value.split())


def in_bytes(key: str, value: str, page_bytes: int) -> str:
    """' (207.2 MB, 265.3 MB, 402.0 MB)' for a value in pages, '' for any other."""
    known = KEYS.get(key)
    words = value.split()
    if known is None or known.unit != "pages" or not all(NUMBER.fullmatch(word) for word in words):
        return ""
    return f" ({', '.join(_size(int(word) * page_bytes) for word in words)})"


def _size(value: int) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.0f} MB"


def _known(more: More, have: str, want: str) -> bool:
    if isinstance(more, tuple):
        return have in more and want in more
    return all(NUMBER.fullmatch(word) for word in (have, want))


def _larger(more: More, index: int, have: str, want: str) -> str:
    """Of two components the one that gives more; `have` where they are equal."""
    if isinstance(more, tuple):
        return max(have, want, key=more.index)
    smaller = more == "smaller" or (more == "wider" and index == 0)
    return (min if smaller else max)(have, want, key=int)
