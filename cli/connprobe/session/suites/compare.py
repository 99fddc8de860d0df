"""`compare` as a whole: refuse or run, write, show. Returns the exit code."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rich.console import Console

from connprobe.errors import RunFailed, UsageError
from connprobe.model.bout import Bout, CompareRecord, CompareRequest
from connprobe.model.suite import Suite
from connprobe.report import format as fmt
from connprobe.report.plan import render_obstacles
from connprobe.report.standings import render_compare
from connprobe.session.ending import DONE, INTERRUPTED, MISSED, REFUSED, print_json, write
from connprobe.session.interrupts import Interrupts
from connprobe.session.run import say_restored
from connprobe.session.suites.comparison import Comparison
from connprobe.session.suites.suite import read_suite
from connprobe.store.bouts import BOUTS, COMPARE, REQUEST, read_bouts, read_compare, read_request
from connprobe.store.lock import Busy, exclusive
from connprobe.store.rundir import REPORT, RunDirectory

LOCK = "compare"
PATIENCE_S = 2.0  # the workers of one that was killed end a moment after it


def run_compare(
    request: CompareRequest | None,
    resume: Path | None,
    results: Path,
    out: Console,
    err: Console,
    *,
    dry_run: bool,
    json: bool,
) -> int:
    """Exit code of `connprobe compare`. request: None: that of the directory `resume`."""
    if not dry_run:
        say_restored(err)
    if request is None:
        assert resume is not None
        request = read_request(resume)
        _say_changed(request, err)
    comparison = Comparison(request, err)
    if resume is not None and not dry_run and (complete := _complete(resume, comparison)) is not None:
        with suppress(OSError):
            err.print(fmt.printable(f"nothing is left to run in {resume}"), markup=False, soft_wrap=True)
            _show(resume, complete, out, report=(resume / REPORT).is_file(), json=json)
        return _code(complete)
    obstacles = comparison.obstacles(results if resume is None else resume)
    if obstacles:
        render_obstacles(obstacles, err)
    if dry_run and (json or not obstacles):
        _plan(comparison, read_bouts(resume) if resume is not None else (), out, json=json)
    if obstacles:
        return REFUSED
    if dry_run:
        return DONE
    with Interrupts() as interrupts, _directory(request, resume, results) as directory:
        record = comparison.carry_out(directory, interrupts)
        unwritten = write(directory, lambda: directory.write(COMPARE, record), BOUTS)
        no_report = _write_report(directory, record)
        with suppress(OSError):
            _show(directory.path, record, out, report=no_report is None, json=json)
            if no_report:
                err.print(fmt.printable(f"no {REPORT}: {no_report}"), markup=False)
            if record.outcome == "interrupted":
                again = f"to go on: connprobe compare --resume {directory.path}"
                err.print(fmt.printable(again), markup=False, soft_wrap=True)
    if unwritten is not None:
        raise unwritten
    return _code(record)


def chosen_names(suite: Suite, only: Sequence[str]) -> tuple[str, ...]:
    """Raises UsageError for a name that no contestant has."""
    names = list(dict.fromkeys(it.name for it in suite.contestants))
    for name in only:
        if name not in names:
            raise UsageError(
                f"--only {name!r}: no contestant is called that", fix=f"one of {', '.join(names)}"
            )
    return tuple(only)


def _complete(directory: Path, comparison: Comparison) -> CompareRecord | None:
    """The record of a comparison of which every run is over; None: it has to go on."""
    try:
        record = read_compare(directory)
    except RunFailed:  # there is none yet, or a damaged one: it is made again from the runs
        return None
    over = {it.turn for it in record.bouts}
    whole = record.outcome != "interrupted" and len(over) == record.turns and over >= set(comparison.turns)
    return record if whole else None


def _say_changed(request: CompareRequest, err: Console) -> None:
    """Where the suite file is not what it was; one that is gone or has mistakes is another too."""
    path = Path(request.place) / Path(request.path).name
    try:
        same = read_suite(path) == request.suite
    except UsageError:
        same = False
    if not same:
        said = f"{path} is not what it was: not used, but the suite as it was then"
        with suppress(OSError):
            err.print(fmt.printable(said), style="yellow", markup=False, highlight=False, soft_wrap=True)


def _show(directory: Path, record: CompareRecord, out: Console, *, report: bool, json: bool) -> None:
    if json:
        print_json(out, record)
        return
    where = str(directory.absolute())
    render_compare(record, out, results=where, report=f"{where}/{REPORT}" if report else None)


def _code(record: CompareRecord) -> int:
    return {"interrupted": INTERRUPTED, "missed": MISSED}.get(record.outcome, DONE)


@contextmanager
def _directory(request: CompareRequest, resume: Path | None, results: Path) -> Iterator[RunDirectory]:
    """For one comparison at a time."""
    if resume is not None:
        with _alone(resume), RunDirectory.reopen(resume, BOUTS) as directory:
            yield directory
        return
    made = RunDirectory.create(results, "compare", request.suite.title, BOUTS)
    with made as directory, _alone(directory.path):
        directory.write(REQUEST, request, mode=0o600)  # with all that a template or variable holds
        yield directory


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Raises RunFailed where a comparison is running in `path`."""
    with ExitStack() as undo:
        try:
            undo.enter_context(exclusive(LOCK, "connprobe compare", path, patience_s=PATIENCE_S))
        except Busy as busy:
            raise RunFailed(
                f"a comparison is running in {path}: {busy.owner}", fix="wait until it has ended"
            ) from None
        yield


def _write_report(directory: RunDirectory, record: CompareRecord) -> str | None:
    """Every exception is caught: the figures are in compare.json."""
    try:
        from connprobe.report.html.standings import render_compare_html

        directory.write_text(REPORT, render_compare_html(record))
    except Exception as error:  # noqa: BLE001 - see above
        return f"{type(error).__name__}: {error}"
    return None


def _plan(comparison: Comparison, over: Sequence[Bout], out: Console, *, json: bool) -> None:
    done = {it.turn for it in over}
    left = [turn for turn in comparison.turns if turn not in done]
    if json:
        print_json(out, {"turns": [turn._asdict() for turn in left], "skipped": comparison.skipped})
        return
    out.print(f"{len(left)} runs; nothing was touched", markup=False)
    for number, turn in enumerate(left, 1):
        text = f"  {number:4} {turn.workload} {turn.size:,} {turn.contestant}, round {turn.round}"
        out.print(text, markup=False)
    for name, why in comparison.skipped.items():
        out.print(fmt.printable(f"  skipped: {name}: {why}"), markup=False, soft_wrap=True)
