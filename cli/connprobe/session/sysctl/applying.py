"""Applying a profile and getting back what was there: lock, journal, write, verify, settle, undo."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from connprobe.errors import RunFailed, UsageError
from connprobe.model import CheckResult, KeyCheck, SysctlChange
from connprobe.plan.sysctl.changes import Row, changes, compare, left
from connprobe.plan.sysctl.file import Profile, expand
from connprobe.plan.sysctl.keys import KEYS, dotted
from connprobe.plan.sysctl.text import persisted_name, persisted_text
from connprobe.session.undo import LOCK, LOCK_PATIENCE_S, changes_sysctls, undoers
from connprobe.store.journal import Journal, UndoReport, settled_journals, stale_journals
from connprobe.store.lock import exclusive
from connprobe.store.persisted import persist
from connprobe.system.sysctl import PAGE_BYTES, Tree, is_elsewhere, set_values

PERSISTED = Path("/etc/sysctl.d")


class Applied(NamedTuple):
    """What `apply` did, or would do. number 0: nothing was written."""

    number: int
    changes: tuple[SysctlChange, ...]
    left: tuple[str, ...]
    held_back: bool = False  # --exact would have written more
    said: tuple[str, ...] = ()
    file: Path | None = None
    file_was_there: bool = False


class Reverted(NamedTuple):
    """One journal that was undone, as far as `report` says."""

    who: str
    report: UndoReport


def inspect(profile: Profile, tree: Tree) -> tuple[Row, ...]:
    """The profile beside this host's values, one row for each key."""
    return tuple(compare(each, tree.read(each.key)) for each in expand(profile, tree.matching))


def checked(profile: Profile, rows: Sequence[Row], exact: bool) -> CheckResult:
    """Whether this host gives what the profile asks. What is missing here, or not readable, is no miss."""
    keys = tuple(
        KeyCheck(
            key=dotted(row.key),
            now=row.now,
            wanted=row.wanted,
            effect=row.effect,
            ok=not (row.unequal if exact else row.gives_less),
            meaning=KEYS[row.key].meaning if row.key in KEYS else None,
        )
        for row in rows
    )
    return CheckResult(
        profile=profile.name,
        source=profile.source,
        exact=exact,
        ok=all(key.ok for key in keys),
        keys=keys,
    )


def preview(profile: Profile, exact: bool, tree: Tree) -> Applied:
    """What `apply` would do now. Changes nothing."""
    rows = inspect(profile, tree)
    return Applied(0, changes(rows, exact), _left(rows, exact))


def apply(
    profile: Profile,
    *,
    exact: bool = False,
    persist_in: Path | None = None,
    tree: Tree,
    directory: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Applied:
    """Write a profile, to stay until `revert`. All or nothing: a failure puts back what was written.

    directory: of the journals. Raises RunFailed naming the key, and KeyboardInterrupt once `stop` is true;
    then everything is as it was.
    """
    with exclusive(LOCK, "connprobe sysctl apply", directory, patience_s=LOCK_PATIENCE_S):
        _refuse_unfinished(directory, tree)
        rows = inspect(profile, tree)
        wanted = changes(rows, exact)
        refuse_unwritable(profile.name, rows, exact)
        path, fresh = None, False
        with Journal.create("sysctl", directory, subject=profile.name) as journal:
            try:
                said = set_values(tree, wanted, journal.record, stop)
                if persist_in is not None and not stop():
                    path = persist_in / persisted_name(profile)
                    text = persisted_text(profile, rows, exact)
                    fresh = persist(path, text.encode("utf-8", "surrogateescape"), journal.record)
                if stop():
                    raise KeyboardInterrupt
                number = 1 + max((each.number for each in _closed(settled_journals(directory))), default=0)
                journal.settle(number)
            except BaseException as error:
                _take_back(journal, tree, error)
                raise
        held_back = wanted != changes(rows, True)
        return Applied(number, wanted, _left(rows, exact), held_back, tuple(said), path, not fresh)


def revert(
    *,
    number: int | None = None,
    everything: bool = False,
    force: bool = False,
    tree: Tree,
    directory: Path | None = None,
) -> list[Reverted]:
    """Put back what the last apply found; or apply `number`; or all of them, newest first.

    What a killed apply left comes first, and counts as the last apply. UsageError: no such number.
    """
    with exclusive(LOCK, "connprobe sysctl revert", directory, patience_s=LOCK_PATIENCE_S):
        done = []
        if number is None:
            done = _undo_unfinished(directory, tree, force)
            if done and not everything:
                return done
        for journal in _chosen(settled_journals(directory), number, everything):
            with journal:
                done.append(Reverted(describe(journal), journal.undo(undoers(tree, force=force))))
        return done


def refuse_unwritable(name: str, rows: Sequence[Row], exact: bool) -> None:
    """Raises RunFailed where a key has to be written that this user may not, or not one can be."""
    wanted = [row for row in rows if row.target(exact) is not None]
    forbidden = [row for row in wanted if row.writable == "not us"]
    if forbidden:
        others = f" and {len(forbidden) - 1} more" if len(forbidden) > 1 else ""
        raise RunFailed(
            f"{dotted(forbidden[0].key)}{others} cannot be written by this user: it takes root "
            "(CAP_NET_ADMIN for net.*). Nothing was written",
            fix=f"sudo connprobe sysctl apply {name}",
        )
    if wanted and all(row.writable == "no" for row in rows if row.now is not None):
        raise RunFailed(
            f"none of the keys of {name} can be written: {wanted[0].problem}",
            fix="on the host, or in a container with --privileged or --sysctl KEY=VALUE",
        )


def describe(journal: Journal) -> str:
    """'gigabit (id 2, applied 2026-01-02T03:04:05+00:00)', or what a killed command was."""
    if journal.damage:
        return journal.damage
    if journal.number:
        return f"{journal.header.subject} (id {journal.number}, applied {journal.header.at})"
    what = journal.header.subject or "a run"
    return f"{what}, left by connprobe {journal.header.command} (pid {journal.header.pid}), which was killed"


def _left(rows: Sequence[Row], exact: bool) -> tuple[str, ...]:
    return tuple(why for row in rows if (why := left(row, exact, PAGE_BYTES)) is not None)


def _take_back(journal: Journal, tree: Tree, error: BaseException) -> None:
    """What was written before `error` goes back. Raises RunFailed that says so where `error` is one."""
    report = journal.undo(undoers(tree))
    again = f"; put back: {', '.join(report.removed)}" if report.removed else ""
    if report.pending:
        again += f"; NOT put back: {'; '.join(report.pending)}"
    if isinstance(error, RunFailed):
        raise RunFailed(error.message + again, fix=error.fix) from error
    if report.pending:
        raise RunFailed(f"interrupted{again}", fix="connprobe sysctl revert") from error


def _refuse_unfinished(directory: Path | None, tree: Tree) -> None:
    done = _undo_unfinished(directory, tree, force=False)
    if not done:
        return
    pending = [what for each in done for what in each.report.pending]
    back = [what for each in done for what in each.report.removed]
    message = f"refused: there was {' and '.join(each.who for each in done)}"
    if pending:
        raise RunFailed(f"{message}; {'; '.join(pending)}", fix="connprobe sysctl revert")
    raise RunFailed(
        f"{message}. It is undone now ({', '.join(back) or 'nothing had been changed'}); nothing was applied",
        fix="repeat the command",
    )


def _undo_unfinished(directory: Path | None, tree: Tree, force: bool) -> list[Reverted]:
    done = []
    for journal in stale_journals(directory):
        with journal:
            if changes_sysctls(journal) or journal.header.command == "sysctl":
                done.append(Reverted(describe(journal), journal.undo(undoers(tree, force=force))))
    return done


def _chosen(settled: list[Journal], number: int | None, everything: bool) -> list[Journal]:
    """Newest first. The others are closed."""
    if everything:
        return settled
    if number is None:
        whole = [each for each in settled if not each.damage] or settled
        chosen = [each for each in whole if not _is_elsewhere(each)][:1] or whole[:1]
    else:
        chosen = [each for each in settled if each.number == number]
        if not chosen:
            known = ", ".join(f"--id {each.number}" for each in settled)
            raise UsageError(
                f"--id {number}: nothing is applied under it", fix=known or "nothing is applied: see status"
            )
        for later in settled:
            if later.number > number and (shared := _keys(later) & _keys(chosen[0])):
                raise RunFailed(
                    f"{describe(later)} changed {dotted(min(shared))} after it: that has to go first",
                    fix=f"connprobe sysctl revert --id {later.number}",
                )
    _closed([each for each in settled if each not in chosen])
    return chosen


def _is_elsewhere(journal: Journal) -> bool:
    entries = [entry for entry in journal.entries if entry["kind"] == "sysctl"]
    return bool(entries) and all(is_elsewhere(entry) for entry in entries)


def _keys(journal: Journal) -> set[str]:
    return {str(entry["key"]) for entry in journal.entries if entry["kind"] == "sysctl"}


def _closed(journals: list[Journal]) -> list[Journal]:
    for journal in journals:
        journal.close()
    return journals
