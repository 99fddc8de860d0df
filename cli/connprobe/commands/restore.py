"""`connprobe restore`: undo what a run that was killed left behind."""

from connprobe.commands.output import finish, stdout
from connprobe.session.undo import restore_stale


def restore() -> None:
    """Undo what a killed run left behind. Runs that are alive are not touched."""
    out = stdout()
    pending = False
    done = restore_stale()
    for journal, report in done:
        who = f"{journal.header.command}, pid {journal.header.pid}"
        for what in report.removed:
            out.print(f"restored: {what} ({who})", markup=False)
        for what in report.kept:
            out.print(f"left as it is: {what} ({who})", markup=False)
        for what in report.pending:
            pending = True
            out.print(f"not restored: {what} ({who})", markup=False)
    if not done:
        out.print("nothing to restore")
    finish(1 if pending else 0)
