"""All bouts of a comparison, one after the other, each on the disk as it ends; then their tables."""

import os
import platform
import resource
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace
from rich.console import Console

from connprobe.errors import RunFailed
from connprobe.model import HostRecord, Obstacle, Verdict
from connprobe.model.bout import COMPARE_SCHEMA, Bout, CompareRecord, CompareRequest, Others, Turn
from connprobe.model.suite import Contestant, Workload, serves
from connprobe.observe.others import others, spent
from connprobe.plan.suites.fairness import OTHERS_CPUS, fairness
from connprobe.plan.suites.standings import standings
from connprobe.plan.suites.turns import turns
from connprobe.report import format as fmt
from connprobe.report.standings import line
from connprobe.session.certificate import Certificate, make_certificate
from connprobe.session.interrupts import Interrupts
from connprobe.session.load import planned
from connprobe.session.prepare import prepare
from connprobe.session.suites.bout import bout_of, requests, run_load_of
from connprobe.session.suites.contest import Contest
from connprobe.session.suites.suite import key_of, missing, versions, without_secrets
from connprobe.store.bouts import read_bouts
from connprobe.store.rundir import RunDirectory
from connprobe.version import __version__

LOOK_S = 1.0  # at who uses the CPU, before the first bout
UNKNOWN_PORT = 1


class Comparison:
    """Everything of one comparison; `carry_out` makes the bouts that are still to come."""

    def __init__(self, request: CompareRequest, err: Console) -> None:
        """err: where each run is told of as it ends."""
        self.request, self._err = request, err
        self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)  # the servers', before we raise our own
        self._lacks = missing(request)
        suite = request.suite
        chosen = [not request.only or it.name in request.only for it in suite.contestants]
        takes_part = [
            present and key_of(it) not in self._lacks
            for it, present in zip(suite.contestants, chosen, strict=True)
        ]
        self.turns = turns(suite, request.sizes, request.repeats, takes_part)
        self._asked = turns(suite, request.sizes, request.repeats, chosen)
        self.skipped = {
            key_of(it): "; ".join(f"{each.have}: {each.fix}" for each in self._lacks[key_of(it)])
            for it, present in zip(suite.contestants, chosen, strict=True)
            if present and key_of(it) in self._lacks
        }
        self.bouts: list[Bout] = []
        self._certificate: Certificate | None = None
        self._host: HostRecord | None = None
        self._began = datetime.now(UTC).isoformat(timespec="seconds")

    def obstacles(self, results: Path) -> tuple[Obstacle, ...]:
        """What is missing, unless it may be skipped, and what keeps this host from the loads."""
        found: list[Obstacle] = []
        if not self.request.skip_missing or not self.turns:
            found += [each for name in self.skipped for each in self._lacks[name]]
        for workload in self.request.suite.workloads:
            asked, load, _ = requests(workload, max(self.request.sizes), UNKNOWN_PORT, None)
            prepared = prepare(planned(asked, load), results)
            self._host = HostRecord(
                kernel=prepared.facts.kernel,
                cpus=prepared.facts.cpus,
                memory_total_bytes=prepared.facts.memory_total_bytes,
                nofile=prepared.plan.nofile,
                python=platform.python_version(),
            )
            found += prepared.obstacles
        return tuple(dict.fromkeys(found))

    def carry_out(self, directory: RunDirectory, interrupts: Interrupts) -> CompareRecord:
        """A bout that an interruption cut short is not kept."""
        self.bouts = self._kept(directory)
        done = {it.turn for it in self.bouts}
        self.turns += [turn for turn in self._asked if turn in done - set(self.turns)]
        with ExitStack() as undo:
            left = [turn for turn in self.turns if turn not in done]
            if any(self._workload(turn).tls for turn in left):
                self._certificate = make_certificate(directory.path / "tls")
                undo.callback(self._certificate.remove)
            if left:
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
        notes = dict.fromkeys(note for it in self.bouts for note in it.notes)
        suite = self.request.suite
        assert self._host is not None
        return CompareRecord(
            schema=COMPARE_SCHEMA,
            connprobe=__version__,
            command="compare",
            outcome="interrupted" if interrupted else "done" if all_done else "missed",
            started_at=min([self._began, *(it.started_at for it in self.bouts)]),
            request=replace(self.request, suite=without_secrets(self.request.suite)),
            skipped=self.skipped,
            versions=versions(
                self.request,
                (
                    it
                    for contestant in (
                        () if interrupted else suite.contestants
                    )  # who asked to end may not wait
                    if any(bout.contestant == contestant.name for bout in self.bouts)
                    for it in (contestant, *suite.backends_of(contestant))
                ),
            ),
            turns=len(self.turns),
            bouts=tuple(self.bouts),
            standings=table,
            host=self._host,
            verdicts=(
                *fairness(self.bouts, table),
                *(Verdict(level="note", text=text) for text in notes),
            ),
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
                return bout_of(turn, record, run, where, seen, contest.notes)
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
                    notes=tuple(contest.notes),
                )

    def _workload(self, turn: Turn) -> Workload:
        return next(it for it in self.request.suite.workloads if it.name == turn.workload)

    def _contestant(self, turn: Turn) -> Contestant:
        workload = self._workload(turn)
        return next(
            it for it in self.request.suite.contestants if it.name == turn.contestant and serves(it, workload)
        )

    def _kept(self, directory: RunDirectory) -> list[Bout]:
        """Of an earlier try: also those of a contestant that is missing by now."""
        wanted = set(self._asked)
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
            self._err.print(fmt.printable(text), style=style, markup=False, highlight=False, soft_wrap=True)
