"""One bout: the load of a workload on a contestant that runs, and what all of its processes took."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

from connprobe.engine import counters
from connprobe.errors import RunFailed
from connprobe.model import HoldRequest, LoadRequest, RunRecord, Sample, TlsRequest
from connprobe.model.bout import Bout, Others, Turn
from connprobe.model.suite import Workload
from connprobe.observe.process import ProcessGroup
from connprobe.observe.snmp import deltas, read_counters
from connprobe.plan.acceptqueue import reconcile_overflows
from connprobe.plan.load import wrong
from connprobe.plan.message import parse_message
from connprobe.session.certificate import Certificate
from connprobe.session.interrupts import Interrupts
from connprobe.session.load import Load, planned
from connprobe.session.prepare import Prepared, prepare
from connprobe.session.suites.contest import ADDRESS, Contest
from connprobe.store.rundir import RunDirectory

MESSAGE = "32B"


class Silent:
    """A bout's own progress is not shown: its line follows when it is over."""

    def update(self, sample: Sample, phase_left_s: float | None = None, note: str | None = None) -> None:
        pass


def requests(
    workload: Workload, size: int, port: int, certificate: Certificate | None
) -> tuple[HoldRequest, LoadRequest, bytes]:
    """What `connprobe load` would be asked for, and the message."""
    message = workload.message or MESSAGE
    payload = parse_message(message)
    tls = TlsRequest(ca=str(certificate.certificate)) if certificate is not None else None
    request = HoldRequest(
        target=f"{ADDRESS}:{port}",
        count=size,
        protocol=workload.protocol,
        path=workload.path,
        tls=tls if workload.tls else None,
        concurrency=workload.concurrency,
        hold_s=0.0,
        timeout_s=workload.timeout_s,
        bpf=False,  # compiling and loading it takes longer than a short bout; sock_diag counts overflows too
    )
    load = LoadRequest(messages=workload.messages, message=message, message_bytes=len(payload))
    return request, load, payload


class BoutLoad(Load):
    """A load that watches the contestant's processes more often, and ends early when it cannot go on."""

    def __init__(
        self,
        prepared: Prepared,
        directory: RunDirectory,
        interrupts: Interrupts,
        *,
        contest: Contest,
        longest_s: float,
        asked: HoldRequest,
        load: LoadRequest,
        payload: bytes,
    ) -> None:
        super().__init__(prepared, directory, Silent(), interrupts, asked=asked, load=load, payload=payload)
        self.dead: str | None = None
        self.too_long = False
        self.pss_bytes: int | None = None
        self._contest, self._longest_s = contest, longest_s
        self._group: ProcessGroup
        self._peak_rss_bytes = 0
        self._ends_at: float | None = None
        self._stopped = False
        self._counters = read_counters()

    def overflows(self, record: RunRecord) -> int | None:
        """The most that there can have been: sk_drops alone counts each connection of a deferred accept."""
        drops = [it.overflows for it in record.listeners]
        known = [value for value in drops if value is not None]
        if not drops or len(known) < len(drops):
            return None
        moved = deltas(self._counters, read_counters())
        return reconcile_overflows(sum(known), None, moved["ListenOverflows"], moved["ListenDrops"]).high

    def _reach_server(self, undo: ExitStack, log: IO[bytes]) -> ProcessGroup | None:
        self._group = self._contest.group()
        return self._group

    def _over(self, totals: counters.Totals) -> bool:
        now = time.monotonic()
        use = self._group.sample(now, pss=False)
        if use is not None:
            self._peak_rss_bytes = max(self._peak_rss_bytes, use.rss_bytes)
        if self._ends_at is None:
            self._ends_at = now + self._longest_s
        if not self._stopped:
            self.dead = self._contest.dead()
            self.too_long = now >= self._ends_at
            if self.dead is not None or self.too_long:
                self._stopped = True
                self.fleet.send("stop")
        return super()._over(totals)

    def _stop_workers(self) -> None:
        self._group.refresh()
        super()._stop_workers()

    def _record(self) -> RunRecord:
        self.dead = self.dead or self._contest.dead()
        self._group.refresh()
        use = self._group.sample(time.monotonic())
        self.pss_bytes = use.pss_bytes if use is not None else None
        self.seen.server_peak_rss_bytes = max(self.seen.server_peak_rss_bytes, self._peak_rss_bytes)
        return super()._record()


def run_load_of(
    workload: Workload,
    size: int,
    contest: Contest,
    certificate: Certificate | None,
    directory: RunDirectory,
    interrupts: Interrupts,
) -> tuple[RunRecord, BoutLoad]:
    """Its record, which is on the disk by then. Raises RunFailed."""
    asked, load, payload = requests(workload, size, contest.port, certificate)
    prepared = prepare(planned(asked, load), directory.path)
    run = BoutLoad(
        prepared,
        directory,
        interrupts,
        contest=contest,
        longest_s=workload.longest_s,
        asked=asked,
        load=load,
        payload=payload,
    )
    if prepared.obstacles:
        first = prepared.obstacles[0]
        raise RunFailed(f"{first.what}: have {first.have}, need {first.need}", fix=first.fix)
    directory.write_plan(prepared.plan)
    record = run.execute()
    directory.write_record(record)
    return record, run


def bout_of(
    turn: Turn, record: RunRecord, run: BoutLoad, where: str, others: Others, notes: Sequence[str]
) -> Bout:
    """What stands in the tables of the comparison."""
    load = record.load
    assert load is not None
    lost = {
        cause: record.failures.get(cause, 0) + record.drops.get(cause, 0)
        for cause in sorted({*record.failures, *record.drops})
    }
    lost = {cause: number for cause, number in lost.items() if number}
    unknown = {
        path: why
        for path, why in record.unknown.items()
        if path in ("server", "load.workers_cpu_s") or path.startswith("listeners")
    }
    return Bout(
        workload=turn.workload,
        size=turn.size,
        contestant=turn.contestant,
        round=turn.round,
        outcome="died" if run.dead else "done" if load.visited == turn.size else "missed",
        said=run.dead or _why(record, lost, run, turn.size),
        started_at=record.started_at,
        run=where,
        visited=load.visited,
        failures=lost,
        wrong=load.wrong,
        handshake_ms=record.handshake_ms,
        message_ms=record.message_ms,
        total_s=load.total_s,
        connections_per_s=record.connections_per_s,
        server=record.server,
        server_pss_bytes=run.pss_bytes,
        client_cpu_s=load.workers_cpu_s,
        overflows=run.overflows(record),
        others=others,
        notes=tuple(notes),
        unknown=unknown,
    )


def _why(record: RunRecord, lost: dict[str, int], run: BoutLoad, size: int) -> str | None:
    load = record.load
    assert load is not None
    if load.visited == size:
        return None
    parts = [f"{number:,} {cause}" for cause, number in lost.items()]
    details = [
        text for found in (*record.failure_details.values(), *record.drop_details.values()) for text in found
    ]
    if load.wrong:
        parts.append(f"{load.wrong:,} {wrong(record.request.protocol, load.wrong)}")
    if record.not_attempted:
        parts.append(f"{record.not_attempted:,} not attempted")
    said = f"{size - load.visited:,} of {size:,} connections did not do all they had to: {', '.join(parts)}"
    if run.too_long:
        said += "; it took longer than longest_s"
    return f"{said} ({details[0]})" if details else said
