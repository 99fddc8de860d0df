"""What is applied now, and what has drifted since: read from the journals and /proc/sys alone."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from connprobe.plan.sysctl.changes import normal
from connprobe.plan.sysctl.keys import dotted
from connprobe.session.sysctl.applying import describe
from connprobe.session.undo import LOCK, changes_sysctls
from connprobe.store.journal import Journal, settled_journals, stale_journals
from connprobe.store.lock import Busy, exclusive
from connprobe.system.sysctl import Tree, is_elsewhere, values_of

State = Literal["as set", "changed since", "back", "gone", "another namespace", "in doubt"]
ROOTS_JOURNALS = Path("/run/connprobe")


class Standing(NamedTuple):
    """One key of an apply. now None: not to be had here."""

    key: str
    was: str
    set_to: str
    now: str | None
    state: State


class Status(NamedTuple):
    """Everything that connprobe has changed, newest first, and who is changing something now."""

    applied: tuple[tuple[str, tuple[Standing, ...]], ...]
    killed: tuple[tuple[str, tuple[Standing, ...]], ...]
    busy: str | None
    hidden: str | None  # why this may not be all
    files: tuple[Path, ...]
    damaged: tuple[str, ...]


def status(tree: Tree, persisted: Path, directory: Path | None = None) -> Status:
    """The state of every key of every apply. Works for any user on what that user may read."""
    busy = None
    killed: list[Journal] = []
    try:
        with exclusive(LOCK, "connprobe sysctl status", directory):
            for journal in stale_journals(directory):  # let go of before anybody can look for them
                journal.close()
                if changes_sysctls(journal):
                    killed.append(journal)
    except Busy as owner:
        busy = owner.message
    settled = settled_journals(directory)
    for journal in settled:
        journal.close()
    expected: dict[str, str] = {}  # by key: what the key has to be for the older ones not to have drifted
    left = [(describe(each), _keys(each, tree, expected)) for each in killed]
    applied = [(describe(each), _keys(each, tree, expected)) for each in settled if not each.damage]
    damaged = tuple(each.damage for each in settled if each.damage)
    hidden = None
    if directory is None and not os.access(ROOTS_JOURNALS, os.R_OK) and ROOTS_JOURNALS.exists():
        hidden = f"what root applied is in {ROOTS_JOURNALS}, which this user may not read"
    files = tuple(sorted(persisted.glob("90-connprobe-*.conf")))
    return Status(tuple(applied), tuple(left), busy, hidden, files, damaged)


def _keys(journal: Journal, tree: Tree, expected: dict[str, str]) -> tuple[Standing, ...]:
    """Oldest entry first. A later apply of the same key stands for what the kernel has now."""
    rows = []
    entries: Iterable[dict[str, object]] = (each for each in journal.entries if each["kind"] == "sysctl")
    for entry in entries:
        key, was, value = values_of(entry)
        now = tree.read(key).value
        found = expected.get(key, now)
        state: State = "as set"
        if is_elsewhere(entry):
            now, state = None, "another namespace"
        elif found is None:
            state = "gone"
        elif entry["state"] == "planned" or (found == was and found != value):
            state = "back"
        elif entry["state"] == "writing":
            state = "in doubt"
        elif found != value:
            state = "changed since"
        if state != "another namespace":
            expected[key] = was
        shown = None if now is None else normal(now)
        rows.append(Standing(dotted(key), normal(was), normal(value), shown, state))
    return tuple(rows)
