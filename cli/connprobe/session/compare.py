"""`compare` as a whole: what is missing, one bout after the other, each on disk as it ends, the tables."""

import os
import platform
import resource
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from connprobe.errors import RunFailed, UsageError
from connprobe.model import HostRecord, Obstacle, Verdict
from connprobe.model.bout import COMPARE_SCHEMA, Bout, CompareRecord, CompareRequest, Others, Turn
from connprobe.model.suite import Contestant, Suite, Workload, serves
from connprobe.observe.others import others, spent
from connprobe.plan.fairness import OTHERS_CPUS, fairness
from connprobe.plan.standings import standings
from connprobe.plan.turns import turns
from connprobe.report.plan import render_obstacles
from connprobe.report.standings import line, render_compare
from connprobe.session.bout import bout_of, requests, run_load_of
from connprobe.session.certificate import Certificate, make_certificate
from connprobe.session.contest import Contest
from connprobe.session.interrupts import Interrupts
from connprobe.session.load import planned
from connprobe.session.prepare import prepare
from connprobe.session.run import DONE, INTERRUPTED, MISSED, REFUSED, say_restored
from connprobe.session.suite import key_of, missing, versions
from connprobe.store.bouts import BOUTS, COMPARE, REQUEST, read_bouts, read_request
from connprobe.store.rundir import REPORT, RunDirectory, sanitise
from connprobe.version import __version__

LOOK_S = 1.0  # at who uses the CPU, before the first bout
UNKNOWN_PORT = 1


class Comparison:
    """Everything of one comparison; `carry_out` makes the bouts that are still to come."""

    def __init__(self, request: CompareRequest, out: Console, err: Console) -> None:
        self.request, self._out, self._err = request, out, err
        self._nofile, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # the servers', before we raise our own
        self._lacks = missing(request)
        suite = request.suite
        self.chosen = [not request.only or it.name in request.only for it in suite.contestants]
        takes_part = [
            chosen and key_of(it) not in self._lacks
            for it, chosen in zip(suite.contestants, self.chosen, strict=True)
        ]
        self.turns = turns(suite, request.sizes, request.repeats, takes_part)
        self.skipped = {
            key_of(it): f"{self._lacks[key_of(it)].have}; {self._lacks[key_of(it)].fix}"
            for it, chosen in zip(suite.contestants, self.chosen, strict=True)
            if chosen and key_of(it) in self._lacks
        }
        self.notes: list[str] = []
        self.bouts: list[Bout] = []
        self._certificate: Certificate | None = None
        self._host: HostRecord | None = None
        self._began = datetime.now(UTC).isoformat(timespec="seconds")

    def obstacles(self, results: Path) -> tuple[Obstacle, ...]:
        """What is missing, unless it may be skipped, and what keeps this host from the loads."""
        found: dict[str, Obstacle] = {}
        if not self.request.skip_missing or not self.turns:
            found |= {name: self._lacks[name] for name in self.skipped}
        for workload in self.request.suite.workloads:
            asked, _, _ = requests(workload, max(self.request.sizes), UNKNOWN_PORT, None)
            prepared = prepare(planned(asked), results)
            self._host = HostRecord(
                kernel=prepared.facts.kernel,
                cpus=prepared.facts.cpus,
                memory_total_bytes=prepared.facts.memory_total_bytes,
                nofile=prepared.plan.nofile,
                python=platform.python_version(),
            )
            found |= {each.what: each for each in prepared.obstacles}
        return tuple(found.values())

    def carry_out(self, directory: RunDirectory, interrupts: Interrupts) -> CompareRecord:
        """A bout that an interruption cut short is not kept."""
        self.bouts = self._kept(directory)
        done = {it.turn for it in self.bouts}
        with ExitStack() as undo:
            if any(self._workload(turn).tls for turn in self.turns):
                self._certificate = make_certificate(directory.path / "tls")
                undo.callback(self._certificate.remove)
            self._look_around(interrupts)
            for number, turn in enumerate(self.turns, 1):
                if turn in done:
                    continue
                bout = self._bout(turn, directory, interrupts)
                if interrupts.by is not None:
                    break
                self.bouts.append(bout)
                directory.append_sample(bout)
                self._say(line(bout, number, len(self.turns)), "" if bout.outcome == "done" else "red")
                self._warn(bout.others)
        return self.record(interrupted=interrupts.by is not None)

    def record(self, *, interrupted: bool) -> CompareRecord:
        table = standings(self.request.suite, self.bouts)
        all_done = len(self.bouts) == len(self.turns) and all(it.outcome == "done" for it in self.bouts)
        notes = [Verdict(level="note", text=text) for text in dict.fromkeys(self.notes)]
        suite = self.request.suite
        assert self._host is not None
        return CompareRecord(
            schema=COMPARE_SCHEMA,
            connprobe=__version__,
            command="compare",
            outcome="interrupted" if interrupted else "done" if all_done else "missed",
            started_at=min([self._began, *(it.started_at for it in self.bouts)]),
            request=self.request,
            skipped=self.skipped,
            versions=versions(
                self.request,
                (
                    it
                    for contestant in suite.contestants
                    if any(bout.contestant == contestant.name for bout in self.bouts)
                    for it in (contestant, *suite.backends_of(contestant))
                ),
            ),
            turns=len(self.turns),
            bouts=tuple(self.bouts),
            standings=table,
            host=self._host,
            verdicts=(*fairness(self.bouts, table), *notes),
        )

    # one bout

    def _bout(self, turn: Turn, directory: RunDirectory, interrupts: Interrupts) -> Bout:
        workload = self._workload(turn)
        contestant = self._contestant(turn)
        label = f"{turn.workload}-{turn.size}-{turn.contestant}-{turn.round}"
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        certificate = self._certificate if contestant.tls else None
        with (
            RunDirectory.create(directory.path / "runs", "load", label) as place,
            Contest(self.request, contestant, place, certificate, self._nofile, interrupts) as contest,
        ):
            where = str(place.path.relative_to(directory.path))
            try:
                contest.start()
                if interrupts.by is not None:
                    raise RunFailed("interrupted")
                before, began = spent(), time.monotonic()
                record, run = run_load_of(workload, turn.size, contest, certificate, place, interrupts)
                seen = others(before, spent(), [os.getpid()], time.monotonic() - began)
                return bout_of(turn, record, run, where, seen)
            except RunFailed as failure:
                said = f"{failure.message}; {failure.fix}" if failure.fix else failure.message
                return Bout(
                    workload=turn.workload,
                    size=turn.size,
                    contestant=turn.contestant,
                    round=turn.round,
                    outcome="failed",
                    said=said,
                    started_at=started_at,
                    run=where,
                )
            finally:
                self.notes += contest.notes

    def _workload(self, turn: Turn) -> Workload:
        return next(it for it in self.request.suite.workloads if it.name == turn.workload)

    def _contestant(self, turn: Turn) -> Contestant:
        workload = self._workload(turn)
        return next(
            it for it in self.request.suite.contestants if it.name == turn.contestant and serves(it, workload)
        )

    def _kept(self, directory: RunDirectory) -> list[Bout]:
        """Of an earlier try: those that still belong to it."""
        wanted = set(self.turns)
        return list({it.turn: it for it in read_bouts(directory.path) if it.turn in wanted}.values())

    # what is said meanwhile

    def _look_around(self, interrupts: Interrupts) -> None:
        before, began = spent(), time.monotonic()
        while interrupts.by is None and (left := began + LOOK_S - time.monotonic()) > 0:
            time.sleep(min(0.1, left))
        self._warn(others(before, spent(), [os.getpid()], time.monotonic() - began))

    def _warn(self, seen: Others | None) -> None:
        if seen is not None and seen.cpus > OTHERS_CPUS:
            self._say(f"  warning: others use {seen.cpus:.2f} CPUs: {', '.join(seen.who)}", "yellow")

    def _say(self, text: str, style: str) -> None:
        with suppress(OSError):
            self._err.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


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
    comparison = Comparison(request, out, err)
    obstacles = comparison.obstacles(results if resume is None else resume)
    if obstacles:
        render_obstacles(obstacles, err)
    if dry_run and (json or not obstacles):
        _plan(comparison, out, json=json)
    if obstacles:
        return REFUSED
    if dry_run:
        return DONE
    with Interrupts() as interrupts, _directory(request, resume, results) as directory:
        record = comparison.carry_out(directory, interrupts)
        directory.write(COMPARE, record)
        no_report = _write_report(directory, record)
        with suppress(OSError):
            if json:
                _print(out, record)
            else:
                where = str(directory.path.absolute())
                report = None if no_report else f"{where}/{REPORT}"
                render_compare(record, out, results=where, report=report)
            if no_report:
                err.print(f"no {REPORT}: {no_report}", markup=False)
            if record.outcome == "interrupted":
                err.print(
                    f"to go on: connprobe compare --resume {directory.path}", markup=False, soft_wrap=True
                )
    if directory.error is not None:
        raise RunFailed(
            f"{BOUTS} is not complete: {directory.error}", fix="free space in the results directory"
        )
    return {"interrupted": INTERRUPTED, "missed": MISSED}.get(record.outcome, DONE)


def chosen_names(suite: Suite, only: Sequence[str]) -> tuple[str, ...]:
    """Raises UsageError for a name that no contestant has."""
    names = list(dict.fromkeys(it.name for it in suite.contestants))
    for name in only:
        if name not in names:
            raise UsageError(
                f"--only {name!r}: no contestant is called that", fix=f"one of {', '.join(names)}"
            )
    return tuple(only)


def _directory(request: CompareRequest, resume: Path | None, results: Path) -> RunDirectory:
    if resume is not None:
        return RunDirectory.reopen(resume, BOUTS)
    made = RunDirectory.create(results, "compare", sanitise(request.suite.title), BOUTS)
    made.write(REQUEST, request)
    return made


def _write_report(directory: RunDirectory, record: CompareRecord) -> str | None:
    """Every exception is caught: the figures are in compare.json."""
    try:
        from connprobe.report.html.standings import render_compare_html

        directory.write_text(REPORT, render_compare_html(record))
    except Exception as error:  # noqa: BLE001 - see above
        return f"{type(error).__name__}: {error}"
    return None


def _plan(comparison: Comparison, out: Console, *, json: bool) -> None:
    if json:
        turns = [turn._asdict() for turn in comparison.turns]
        _print(out, {"turns": turns, "skipped": comparison.skipped})
        return
    out.print(f"{len(comparison.turns)} runs; nothing was touched", markup=False)
    for number, turn in enumerate(comparison.turns, 1):
        text = f"  {number:4} {turn.workload} {turn.size:,} {turn.contestant}, round {turn.round}"
        out.print(text, markup=False)
    for name, why in comparison.skipped.items():
        out.print(f"  skipped: {name}: {why}", markup=False, soft_wrap=True)


def _print(out: Console, what: object) -> None:
    out.file.write(msgspec.json.format(msgspec.json.encode(what), indent=2).decode() + "\n")
