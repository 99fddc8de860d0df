"""One load from plan to record: connections that come, say their messages and go."""

import os
from contextlib import ExitStack
from math import ceil
from typing import IO

from msgspec.structs import replace

from connprobe.engine import counters
from connprobe.engine.task import Task, VisitsTask
from connprobe.model import HoldRequest, LoadRequest, RunRecord, ServeMode
from connprobe.plan.capacity import processes_for
from connprobe.plan.message import is_size
from connprobe.session.costs import Costs
from connprobe.session.hold import Hold
from connprobe.session.interrupts import Interrupts
from connprobe.session.loaded import LATE_MS, fell_behind, load_record
from connprobe.session.prepare import Prepared
from connprobe.session.sampling import Progress
from connprobe.store.rundir import RunDirectory
from connprobe.system.facts import raise_nofile

UNCOUNTED = 10**12  # connections of a load that its duration alone bounds
AT_ONCE_PER_WORKER = 200  # one takes some 8,000 connections a second, and fewer take less CPU for each


def planned(request: HoldRequest, load: LoadRequest) -> HoldRequest:
    """What has to be planned for: only as many connections as are open at once."""
    at_once = min(request.count, request.concurrency) if load.counted else request.concurrency
    workers = request.workers
    if workers is None:
        nofile, _ = raise_nofile(at_once + 1024)
        workers = min(len(os.sched_getaffinity(0)), ceil(at_once / AT_ONCE_PER_WORKER))
        workers = max(workers, processes_for(at_once, nofile))
    return replace(request, count=at_once, concurrency=at_once, workers=workers)


class Load(Hold):
    """`execute` returns the record of a load."""

    command = "load"

    def __init__(
        self,
        prepared: Prepared,
        directory: RunDirectory,
        progress: Progress,
        interrupts: Interrupts,
        *,
        asked: HoldRequest,
        load: LoadRequest,
        payload: bytes,
    ) -> None:
        """prepared: of `planned(asked, load)`."""
        super().__init__(prepared, directory, progress, interrupts)
        self.asked, self.load, self._payload = asked, load, payload
        self.seen.what = "load"

    def _server_mode(self) -> ServeMode:
        return "echo"

    def _run(self, undo: ExitStack, log: IO[bytes]) -> None:
        costs = self._start_workers(undo, log)
        self._watch("load", self._over)
        self._note_ramp(costs)
        self._measure_client()
        self.seen.measured_at = 0  # nothing is held any more that its memory could be shared out to
        self._stop_workers()

    def _note_ramp(self, costs: Costs) -> None:
        """A worker's CPU is that of its visits: what its start took would be shared out to the load alone."""
        super()._note_ramp(costs)
        if self.seen.cpu is not None and self.seen.ramp_s:
            busiest_ns = max(self.fleet.table.column(counters.CPU_NS))
            self.seen.cpu = self.seen.cpu._replace(busiest_worker=busiest_ns / 1e9 / self.seen.ramp_s)

    def _tasks(self) -> list[Task]:
        workers = self.plan.workers
        count = self.asked.count if self.load.counted else UNCOUNTED
        visits = VisitsTask(
            self.load.messages,
            self._payload,
            self.load.duration_s or 0.0,
            varied=self.load.messages > 1 and is_size(self.load.message),
        )
        return [
            task._replace(share=share, goal=share, visits=tuple(visits))
            for index, task in enumerate(super()._tasks())
            for share in (count // workers + (index < count % workers),)
        ]

    def _over(self, totals: counters.Totals) -> bool:
        self._give_up_if_hopeless(totals)
        ended = self.fleet.table.column(counters.RAMPED_NS)
        return all(ended[worker] for worker in self.fleet.alive)

    def _share_of(self, worker: int) -> int:
        """Of one that was lost, what it began: the rest was not attempted."""
        return self.fleet.table.row(worker)[counters.STARTED]

    def _record(self) -> RunRecord:
        self.seen.checked = True  # nothing is held, and so nothing is to be checked
        if self.seen.totals is not None:
            late = self.seen.totals.late_max_us > 1000 * LATE_MS
            self.seen.behind = late or fell_behind(self.asked, self.load, self.seen)
        return load_record(super()._record(), self.asked, self.load, self.seen)
