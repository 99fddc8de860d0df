"""What each kind of journal entry is undone by, for the end of a run and for what a killed one left."""

from collections.abc import Callable, Mapping
from pathlib import Path

from connprobe.store.journal import Entry, Journal, Undone, UndoReport, stale_journals
from connprobe.store.lock import Busy, exclusive
from connprobe.store.persisted import remove_persisted
from connprobe.system.addresses import remove_addresses
from connprobe.system.sysctl import Tree, put_back

LOCK = "sysctl"
LOCK_PATIENCE_S = 5.0


def undoers(tree: Tree, *, force: bool = False) -> Mapping[str, Callable[[Entry], Undone]]:
    """By kind. force: sysctls that somebody else changed since are overwritten."""
    return {
        "address": remove_addresses,
        "sysctl": lambda entry: put_back(entry, tree, force=force),
        "sysctl-file": remove_persisted,
    }


def undo_all(journal: Journal) -> UndoReport:
    """Undo one journal, newest entry first; its file goes when nothing is left to undo."""
    return journal.undo(undoers(Tree()))


def changes_sysctls(journal: Journal) -> bool:
    return any(str(entry["kind"]).startswith("sysctl") for entry in journal.entries)


def restore_stale(
    directory: Path | None = None, *, patience_s: float = LOCK_PATIENCE_S
) -> list[tuple[Journal, UndoReport]]:
    """Undo what runs that were killed left behind. Journals of living runs are not touched.

    Those of sysctls only with the lock that an apply takes, and taken first, as it does: an apply that found
    them in our hands would take the killed run's values for the ones that were there.
    """
    done: list[tuple[Journal, UndoReport]] = []
    waiting = False
    for journal in stale_journals(directory):
        with journal:
            if changes_sysctls(journal):
                waiting = True
            else:
                done.append((journal, undo_all(journal)))
    if not waiting:
        return done
    try:
        with exclusive(LOCK, "connprobe restore", directory, patience_s=patience_s):
            for journal in stale_journals(directory):
                with journal:
                    done.append((journal, undo_all(journal)))
    except Busy as busy:
        for journal in stale_journals(directory):
            with journal:
                done.append((journal, UndoReport(pending=(f"its sysctls: {busy.message}",))))
    return done
