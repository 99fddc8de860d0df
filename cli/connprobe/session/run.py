"""`hold` as a whole: plan, refuse or run, write, show. Returns the exit code."""

from contextlib import suppress
from pathlib import Path

import msgspec
from rich.console import Console

from connprobe.errors import RunFailed
from connprobe.model import HoldRequest, RunRecord
from connprobe.report.dashboard import progress
from connprobe.report.plan import render_obstacles, render_plan
from connprobe.report.summary import render_summary
from connprobe.session.hold import Hold
from connprobe.session.interrupts import Interrupts
from connprobe.session.prepare import prepare
from connprobe.session.reports import write_report
from connprobe.session.undo import restore_stale
from connprobe.store.rundir import REPORT, RunDirectory

DONE, FAILED, REFUSED, MISSED, INTERRUPTED = 0, 1, 3, 4, 130
EXIT = {"done": DONE, "failed": FAILED, "missed": MISSED, "interrupted": INTERRUPTED}


def run_hold(
    request: HoldRequest, results: Path, out: Console, err: Console, *, dry_run: bool, json: bool
) -> int:
    """Exit code of `connprobe hold`: results on `out`, progress and refusals on `err`."""
    if not dry_run:
        say_restored(err)
    prepared = prepare(request, results)
    if prepared.obstacles:
        render_obstacles(prepared.obstacles, err)
    if dry_run and json:
        print_json(out, {"plan": prepared.plan, "obstacles": prepared.obstacles})
    elif dry_run and not prepared.obstacles:
        render_plan(prepared.plan, out)
    if prepared.obstacles:
        return REFUSED
    if dry_run:
        return DONE
    label = prepared.target.label if prepared.target is not None else "embedded"
    with Interrupts() as interrupts, RunDirectory.create(results, "hold", label) as directory:
        directory.write_plan(prepared.plan)
        title = f"{request.protocol} {label}"
        view = progress(err, asked=request.count, title=title, hold_s=request.hold_s, plain=json)
        with suppress(OSError):  # a terminal that goes away takes its view along, not the run
            view.__enter__()
        try:
            record = Hold(prepared, directory, view, interrupts).execute()
        finally:
            with suppress(OSError):
                view.__exit__(None, None, None)
        unwritten = write(directory, record)
        no_report = write_report(directory, record)
        with suppress(OSError):
            if json:
                print_json(out, record)
            else:
                report = None if no_report else str(directory.path.absolute() / REPORT)
                render_summary(record, out, results=str(directory.path.absolute()), report=report)
            if no_report:
                err.print(f"no {REPORT}: {no_report}", markup=False)
    if unwritten is not None:
        raise unwritten
    return EXIT[record.outcome]


def write(directory: RunDirectory, record: RunRecord) -> RunFailed | None:
    """The figures are shown even when the disk takes them no more."""
    try:
        directory.write_record(record)
    except RunFailed as failure:
        return failure
    if directory.error is not None:
        return RunFailed(
            f"samples.jsonl is not complete: {directory.error}", fix="free space in the results directory"
        )
    return None


def print_json(out: Console, record: object) -> None:
    """Alone on standard output."""
    out.file.write(msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n")


def say_restored(err: Console) -> None:
    """Undo what a killed run left, and say so, before anything else is done."""
    for journal, report in restore_stale():
        who = f"{journal.header.command} (pid {journal.header.pid})"
        for what in report.removed:
            err.print(f"restored: {what}, left by {who}", markup=False)
        for what in report.pending:
            err.print(f"not restored: {what}, left by {who}", markup=False)
