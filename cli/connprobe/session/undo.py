"""What each kind of journal entry is undone by, for the end of a run and for what a killed one left."""

from connprobe.store.journal import Journal, UndoReport, stale_journals
from connprobe.system.addresses import remove_addresses

UNDOERS = {"address": remove_addresses}


def undo_all(journal: Journal) -> UndoReport:
    """Undo one journal, newest entry first; its file goes when nothing is left to undo."""
    return journal.undo(UNDOERS)


def restore_stale() -> list[tuple[Journal, UndoReport]]:
    """Undo what runs that were killed left behind. Journals of living runs are not touched."""
    done = []
    for journal in stale_journals():
        with journal:
            done.append((journal, undo_all(journal)))
    return done
