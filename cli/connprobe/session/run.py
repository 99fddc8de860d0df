"""`hold` and `load` as a whole: plan, refuse or run, write, show. Returns the exit code."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace
from rich.console import Console

from connprobe.model import HoldRequest, LoadRequest
from connprobe.plan.load import load_note
from connprobe.report.dashboard import progress
from connprobe.report.liveview import shown
from connprobe.report.loaded import render_load_record
from connprobe.report.summary import render_summary
from connprobe.session.ending import conclude, end_early
from connprobe.session.hold import Hold
from connprobe.session.interrupts import Interrupts
from connprobe.session.load import Load, planned
from connprobe.session.prepare import Prepared, prepare
from connprobe.session.sampling import Progress
from connprobe.session.undo import restore_stale
from connprobe.store.rundir import RunDirectory


class _Kind(NamedTuple):
    """What tells one command from another. request: what is planned for. asked: 0: nobody said how many.

    hold_s: None: connections do not stay.
    """

    command: str
    request: HoldRequest
    asked: int
    hold_s: float | None
    make: Callable[[Prepared, RunDirectory, Progress, Interrupts], Hold]
    notes: tuple[str, ...] = ()


def run_hold(
    request: HoldRequest, results: Path, out: Console, err: Console, *, dry_run: bool, json: bool
) -> int:
    """Exit code of `connprobe hold`: results on `out`, progress and refusals on `err`."""
    kind = _Kind("hold", request, request.count, request.hold_s, Hold)
    return _carry_out(kind, results, out, err, dry_run=dry_run, json=json)


def run_load(
    request: HoldRequest,
    load: LoadRequest,
    payload: bytes,
    results: Path,
    out: Console,
    err: Console,
    *,
    dry_run: bool,
    json: bool,
) -> int:
    """Exit code of `connprobe load`. payload: the message that `load` describes."""
    make = partial(Load, asked=request, load=load, payload=payload)
    asked = request.count if load.counted else 0
    kind = _Kind("load", planned(request, load), asked, None, make, (load_note(request, load),))
    return _carry_out(kind, results, out, err, dry_run=dry_run, json=json)


def _carry_out(kind: _Kind, results: Path, out: Console, err: Console, *, dry_run: bool, json: bool) -> int:
    if not dry_run:
        say_restored(err)
    prepared = prepare(kind.request, results)
    prepared = prepared._replace(plan=replace(prepared.plan, notes=(*kind.notes, *prepared.plan.notes)))
    ended = end_early(prepared.plan, prepared.obstacles, out, err, dry_run=dry_run, json=json)
    if ended is not None:
        return ended
    label = prepared.target.label if prepared.target is not None else "embedded"
    with Interrupts() as interrupts, RunDirectory.create(results, kind.command, label) as directory:
        directory.write_plan(prepared.plan)
        title = f"{kind.request.protocol} {label}"
        stays = kind.hold_s is not None
        view = progress(err, asked=kind.asked, title=title, hold_s=kind.hold_s, stays=stays, plain=json)
        with shown(view):
            record = kind.make(prepared, directory, view, interrupts).execute()
        render = render_load_record if record.command == "load" else render_summary
        return conclude(directory, record, render, out, err, json=json)


def say_restored(err: Console) -> None:
    """Undo what a killed run left, and say so, before anything else is done."""
    for journal, report in restore_stale():
        who = f"{journal.header.command} (pid {journal.header.pid})"
        for what in report.removed:
            err.print(f"restored: {what}, left by {who}", markup=False)
        for what in report.pending:
            err.print(f"not restored: {what}, left by {who}", markup=False)
