"""How every run ends: its record written and shown, and an exit code."""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from rich.console import Console

from connprobe.errors import RunFailed
from connprobe.model import RunRecord
from connprobe.model.base import as_json
from connprobe.session.reports import write_report
from connprobe.store.rundir import REPORT, RunDirectory
from connprobe.store.samples import SAMPLES

DONE, FAILED, REFUSED, MISSED, INTERRUPTED = 0, 1, 3, 4, 130
EXIT = {"done": DONE, "failed": FAILED, "missed": MISSED, "interrupted": INTERRUPTED}


class Render(Protocol):
    def __call__(
        self, record: RunRecord, console: Console, *, results: str | None, report: str | None
    ) -> None: ...


def conclude(
    directory: RunDirectory, record: RunRecord, render: Render, out: Console, err: Console, *, json: bool
) -> int:
    """The exit code. Raises RunFailed at the end, where the record is not wholly on the disk."""
    unwritten = write(directory, lambda: directory.write_record(record))
    no_report = write_report(directory, record)
    with suppress(OSError):
        if json:
            print_json(out, record)
        else:
            report = None if no_report else str(directory.path.absolute() / REPORT)
            render(record, out, results=str(directory.path.absolute()), report=report)
        if no_report:
            err.print(f"no {REPORT}: {no_report}", markup=False)
    if unwritten is not None:
        raise unwritten
    return EXIT[record.outcome]


def write(directory: RunDirectory, put: Callable[[], None], appended: str = SAMPLES) -> RunFailed | None:
    """What `put` raises: the figures are shown even when the disk takes them no more."""
    try:
        put()
    except RunFailed as failure:
        return failure
    if directory.error is not None:
        return RunFailed(
            f"{appended} is not complete: {directory.error}", fix="free space in the results directory"
        )
    return None


def print_json(out: Console, record: object) -> None:
    """Alone on standard output."""
    out.file.write(as_json(record) + "\n")
