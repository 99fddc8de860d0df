"""How every run ends: its record written and shown, and an exit code."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import msgspec
from rich.console import Console

from connprobe.errors import RunFailed
from connprobe.model import HoldPlan, Obstacle, PipelineRecord, RunRecord
from connprobe.model.base import as_json
from connprobe.report.plan import render_obstacles, render_plan
from connprobe.store.rundir import PIPELINE, RECORD, REPORT, RunDirectory
from connprobe.store.samples import SAMPLES

DONE, FAILED, REFUSED, MISSED, INTERRUPTED = 0, 1, 3, 4, 130
EXIT = {"done": DONE, "failed": FAILED, "missed": MISSED, "interrupted": INTERRUPTED}


R = TypeVar("R", RunRecord, PipelineRecord)
R_contra = TypeVar("R_contra", RunRecord, PipelineRecord, contravariant=True)


class Render(Protocol[R_contra]):
    def __call__(
        self, record: R_contra, console: Console, *, results: str | None, report: str | None
    ) -> None: ...


def end_early(
    plan: HoldPlan, obstacles: Sequence[Obstacle], out: Console, err: Console, *, dry_run: bool, json: bool
) -> int | None:
    """The exit code of a run that is refused or only planned, which is shown; None: it may begin."""
    if obstacles:
        render_obstacles(obstacles, err)
    if dry_run and json:
        print_json(out, {"plan": plan, "obstacles": obstacles})
    elif dry_run and not obstacles:
        render_plan(plan, out)
    if obstacles:
        return REFUSED
    return DONE if dry_run else None


def conclude(
    directory: RunDirectory, record: R, render: Render[R], out: Console, err: Console, *, json: bool
) -> int:
    """The exit code. Raises RunFailed at the end, where the record is not wholly on the disk."""
    name = PIPELINE if isinstance(record, PipelineRecord) else RECORD
    unwritten = write(directory, lambda: directory.write(name, record))
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


def write_report(directory: RunDirectory, record: RunRecord | PipelineRecord) -> str | None:
    """Write report.html of a run whose record is on the disk; what went wrong, or None.

    Every exception is caught: a run is never lost for its report, which can be made again.
    """
    from connprobe.report.html import render_html  # a dozen modules that a run itself does not need

    again = f"connprobe report --format html {directory.path} makes it again"
    try:
        as_read = msgspec.json.decode(msgspec.json.encode(record), type=type(record))  # as it will be again
        directory.write_text(REPORT, render_html(as_read, directory.read_samples()))
    except RunFailed as failure:
        return f"{failure.message}; {again}"
    except Exception as error:  # noqa: BLE001 - see above
        return f"{type(error).__name__}: {error}; {again}"
    return None


def print_json(out: Console, record: object) -> None:
    """Alone on standard output. BrokenPipeError: nobody reads any more; RunFailed: it takes no more."""
    try:
        out.file.write(as_json(record) + "\n")
        out.file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunFailed(
            f"standard output cannot be written: {error.strerror}; what it lacks is in the results directory",
            fix="free space where it goes to",
        ) from error
