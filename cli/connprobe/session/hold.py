"""One hold from plan to record: set up, open, hold, check, close, undo."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import IO, Any, Literal

from connprobe.engine import counters
from connprobe.engine.task import Task
from connprobe.fleet.fleet import Fleet
from connprobe.model import HostRecord, Phase, RunRecord, ServeMode, Target
from connprobe.observe.client import cpu_of, pss_of
from connprobe.observe.listeners import chosen_by, listener_pids, waiting
from connprobe.observe.process import ProcessGroup
from connprobe.plan.hold import has_stock
from connprobe.session.clientlimits import ceilings_of_client
from connprobe.session.costing import Costed, Costing, bare
from connprobe.session.costs import Costs
from connprobe.session.embedded import certificate_of_a_run, start_server
from connprobe.session.hanging import Hanging
from connprobe.session.hostchanges import change_host
from connprobe.session.interrupts import Interrupts
from connprobe.session.kernel.kernelview import KernelView
from connprobe.session.kernel.probes import load_probes
from connprobe.session.outcome import Seen, build_record
from connprobe.session.prepare import Prepared
from connprobe.session.sampling import Progress, Sampler
from connprobe.session.stock import stocked
from connprobe.session.workertasks import worker_tasks
from connprobe.store.rundir import RunDirectory

POLL_S = 0.1
HOPELESS = 1000  # this many failures and not one success: the rest is not tried
CLOSE_S, CLOSE_INTERRUPTED_S = 120.0, 4.0


class Hold:
    """One run. `execute` returns its record; everything it set up is undone by then."""

    command: Literal["hold", "limit", "load"] = "hold"

    def __init__(
        self,
        prepared: Prepared,
        directory: RunDirectory,
        progress: Progress,
        interrupts: Interrupts,
        began: float | None = None,
    ) -> None:
        """began: the moment that samples count from, by time.monotonic; None: when the first is taken."""
        self.request, self.plan, self.facts = prepared.request, prepared.plan, prepared.facts
        self.target = prepared.target
        self._directory, self._progress, self._began = directory, progress, began
        self.interrupts = interrupts
        self.seen = Seen(started_at=datetime.now(UTC).isoformat(timespec="seconds"))
        self.fleet: Fleet
        self.server_fleet: Fleet | None = None
        self._authority: str | None = None  # of the embedded server's certificate
        self.checked: set[int] = set()
        self._sampler: Sampler
        self._costing: Costing | None = None
        self._hanging = Hanging(self.request.timeout_s)
        self._dealt: list[int] = []  # to each worker, where there is a stock they take the rest from

    def execute(self) -> RunRecord:
        cpu_before = time.process_time()
        with ExitStack() as undo:
            log: IO[bytes] = undo.enter_context(self._directory.open_log())
            change_host(undo, self.plan, self.command, self.seen, lambda: self.interrupts.by is not None)
            server = self._reach_server(undo, log)
            assert self.target is not None
            if self.interrupts.by is None:
                self._hold(undo, log, server)
            else:
                early = "the run was interrupted before it began"
                self.seen.unknown |= {"server": early, "listeners": early}
        self.seen.observer_cpu_s = time.process_time() - cpu_before
        return self._record()

    def _hold(self, undo: ExitStack, log: IO[bytes], server: ProcessGroup | None) -> None:
        assert self.target is not None
        chosen = chosen_by(self.target.scoped_address, self.target.port)
        loaded = undo.enter_context(load_probes()) if self.request.bpf else None
        self.kernel = KernelView(chosen, loaded)
        self._sampler = sampler = Sampler(self._directory, self._progress, server, self.kernel, self._began)
        if self.interrupts.by is None:  # attaching takes a second or two
            self._run(undo, log)
        self.seen.take_kernel(self.kernel)
        self.seen.samples, self.seen.late_samples = sampler.samples, sampler.late_samples
        self.seen.server_start, self.seen.server_last = sampler.server_start, sampler.server_last
        self.seen.server_peak_rss_bytes = sampler.server_peak_rss_bytes

    def _reach_server(self, undo: ExitStack, log: IO[bytes]) -> ProcessGroup | None:
        if self.target is None:
            self._start_server(undo, log)
        return self._find_server()

    def _start_server(self, undo: ExitStack, log: IO[bytes]) -> None:
        # In the run's own directory: there a killed run leaves nothing to look for elsewhere.
        tls = self.request.tls is not None
        made = certificate_of_a_run(self._directory.private("tls"), undo) if tls else None
        self._authority = str(made.certificate) if made is not None else None
        fleet, port = start_server(
            "127.0.0.1",
            0,
            self.plan.server_processes,
            protocol=self.request.protocol,
            mode=self._server_mode(),
            backlog=65535,
            certificate=self._authority,
            key=str(made.key) if made is not None else None,
            log=log,
        )
        undo.enter_context(fleet)
        self.server_fleet = fleet
        self.target = Target(host="127.0.0.1", address="127.0.0.1", port=port, family="ipv4")

    def _server_mode(self) -> ServeMode:
        streams = self.request.http_mode == "stream" and self.request.protocol == "http"
        return "stream" if streams else "idle"

    def _find_server(self) -> ProcessGroup | None:
        assert self.target is not None
        if self.server_fleet is not None:
            return ProcessGroup(self.server_fleet.pids, follow_children=False)
        if self.request.server_pid is not None:
            pids: tuple[int, ...] = (self.request.server_pid,)
        else:
            found = listener_pids(self.target.scoped_address, self.target.port)
            pids = found.pids
            if found.reason is not None:
                self.seen.unknown["server"] = found.reason
        return ProcessGroup(pids) if pids else None

    def _run(self, undo: ExitStack, log: IO[bytes]) -> None:
        if (server := self._sampler.server_start) is not None:
            self._costing = Costing(server.pids, ends=self._ends, count=self.plan.count)
            self.seen.server_start_pss_bytes = pss_of(server.pids)
        self._sampler.begin("ramp")
        costs = self._start_workers(undo, log)
        self._watch("ramp", self._ramp_is_over)
        self._note_ramp(costs)
        if self.interrupts.by is None:
            held_since = time.monotonic()
            self._watch("hold", self._nothing_left, held_since + self.request.hold_s)
            self.seen.hold_s = time.monotonic() - held_since
            self._measure_client()
            self.seen.kernel = costs.kernel(self._read_totals().held, self._ends)
            self.kernel.traffic.take_census()
            self.seen.server_idle = idle = self._sampler.server_now
            self.seen.server_pss_bytes = pss_of(idle.pids) if idle is not None else None
            if self._costing is not None:
                self._costing.settle(self._alive())
        self.seen.costed = self._cost()
        if self.interrupts.by is None:
            self._check()
        self._stop_workers()

    @property
    def _ends(self) -> Literal[1, 2]:
        """Of each connection, on this host."""
        return 2 if self.kernel.has_listeners else 1

    def _start_workers(self, undo: ExitStack, log: IO[bytes]) -> Costs:
        """Returns what is read before the first connection."""
        server = self._sampler.server_start
        costs = Costs(server.pids if server else ())
        assert self.target is not None
        tasks = self._tasks()
        if tasks[0].visits is None and has_stock(self.request, self.plan, self.target.address):
            with stocked(tasks, self.plan.nofile) as (tasks, stock):
                self._dealt = [task.goal for task in tasks]
                self.fleet = undo.enter_context(self._make_fleet(tasks, log, fds=(stock,)))
        else:
            self.fleet = undo.enter_context(self._make_fleet(tasks, log))
        self.kernel.traffic.watch(server.pids if server else (), "target")
        self.kernel.traffic.watch(self.fleet.pids, "client")
        return costs

    def _make_fleet(self, tasks: Sequence[Task], log: IO[bytes], fds: Sequence[int] = ()) -> Fleet:
        module, columns = "connprobe.engine.worker", counters.COLUMNS
        processes = self.plan.worker_processes or 0
        fleet = Fleet(module, "connprobe-w", tasks, columns, log, processes=processes, fds=fds)
        self.seen.worker_processes = len(fleet.pids)
        return fleet

    def _tasks(self) -> list[Task]:
        assert self.target is not None
        return worker_tasks(self.request, self.plan, self.target, self._authority)

    def _note_ramp(self, costs: Costs) -> None:
        self.seen.ramp_s = counters.read_ramp_s(self.fleet.table, time.monotonic_ns())
        self.seen.cpu = costs.cpu(self.fleet.pids, self.fleet.zygote_pid, self.seen.ramp_s)

    def _measure_client(self) -> None:
        workers = self.fleet.living_pids
        self.seen.workers_pss_bytes = pss_of(workers)
        self.seen.client_pss_bytes = pss_of([*workers, self.fleet.zygote_pid, os.getpid()])
        self.seen.observer_pss_bytes = pss_of([os.getpid()])
        self.seen.workers_cpu_s = cpu_of([*workers, self.fleet.zygote_pid])
        self.seen.measured_at = max(1, self._read_totals().held)

    def _alive(self) -> int:
        """Connections that the server has. One that nothing was asked on may still wait to be accepted."""
        totals = self._read_totals()
        return totals.held if self.request.answered else max(0, totals.held - self._unaccepted(totals))

    def _unaccepted(self, totals: counters.Totals) -> int:
        return self._waiting()

    def _waiting(self) -> int:
        """Established for us, and not yet accepted by the server."""
        assert self.target is not None
        return waiting(self.target.scoped_address, self.target.port) if self.kernel.has_listeners else 0

    def _cost(self) -> Costed:
        """The limits."""
        assert self.target is not None
        target = None if self.server_fleet is not None else self.target
        client = ceilings_of_client(self.request, self.facts, target, self.plan)
        held = self._read_totals().held
        if self._costing is None:
            return bare(held, client, self.seen.unknown.get("server", "it has no process on this host"))
        return self._costing.costed(
            held,
            self.facts,
            client,
            ports=(self.target.port,),
            between_requests=self.request.between_requests,
            same_host=self.kernel.has_listeners,
            ended=self.server_fleet is not None,
        )

    def _check(self) -> None:
        """Who is alive, at the end: every worker asks each of its connections."""
        self.fleet.send("check")
        slowest = self.request.timeout_s + 30 + self.plan.count / 5000
        self._watch("check", self._all_checked, time.monotonic() + slowest)
        if self.interrupts.by is None:
            self._end_silent(set(self.fleet.alive) - self.checked)
        self.seen.checked = self.checked >= set(self.fleet.alive)

    def _stop_workers(self) -> None:
        self._read_totals()
        self.seen.table = self.fleet.table
        self.seen.lost = dict(self.fleet.lost)
        if self.server_fleet is not None:
            self.server_fleet.poll(0)
            self.seen.servers_lost = tuple(self.server_fleet.lost.values())
        self._sampler.tick("close", self._read_totals(), self.fleet.table, None)
        self._close_all()
        self._read_totals()  # of workers that have ended: while they run, a row may be half written

    def _close_all(self) -> None:
        """Ends the workers, and with them the connections; they have the last word on what was lost."""
        interrupted = self.interrupts.by is not None
        closing_s = CLOSE_INTERRUPTED_S if interrupted else CLOSE_S
        for index, message in self.fleet.stop(
            closing_s, lambda: self.interrupts.by is not None, CLOSE_INTERRUPTED_S
        ):
            self._hear(index, message)

    def _record(self) -> RunRecord:
        assert self.target is not None
        if self._directory.error is not None:
            self.seen.unknown["samples"] = f"samples.jsonl is not complete: {self._directory.error}"
        return build_record(
            self.request,
            self.plan,
            self.target,
            HostRecord(
                kernel=self.facts.kernel,
                cpus=self.facts.cpus,
                memory_total_bytes=self.facts.memory_total_bytes,
                nofile=self.plan.nofile,
                python=platform.python_version(),
            ),
            self.seen,
            self.interrupts.by,
        )

    # the loop

    def _watch(
        self, phase: Phase, over: Callable[[counters.Totals], bool], deadline: float = float("inf")
    ) -> None:
        """Listens, samples and draws until `over`, the deadline or an interruption."""
        while self.interrupts.by is None:
            now = time.monotonic()
            for index, message in self.fleet.poll(max(0.0, min(POLL_S, deadline - now))):
                self._hear(index, message)
            self._end_silent(self._hanging.workers(self.fleet))
            totals = self._read_totals()
            self._sampler.tick(phase, totals, self.fleet.table, deadline if phase == "hold" else None)
            if self._costing is not None:
                self._costing.look(phase)
            if over(totals) or time.monotonic() >= deadline or not self.fleet.alive:
                return

    def _hear(self, index: int, message: tuple[Any, ...]) -> None:
        """What a worker says of its failures: at the check, and with its last words."""
        kind, failures, drops = message
        self.seen.failure_details[index] = failures
        self.seen.drop_details[index] = drops
        if kind == "checked":
            self.checked.add(index)

    def _end_silent(self, workers: set[int]) -> None:
        """What they hold cannot be checked: they count as lost, with all of their process."""
        pids = {self.fleet.pid_of(index) for index in workers}
        ended = {index for index in self.fleet.alive if self.fleet.pid_of(index) in pids}
        for index in workers:
            self.fleet.kill(index)
        deadline = time.monotonic() + 5
        while ended & set(self.fleet.alive) and time.monotonic() < deadline:
            for index, message in self.fleet.poll(0.1):
                self._hear(index, message)

    def _read_totals(self) -> counters.Totals:
        shares = {index: self._share_of(index) for index in self.fleet.lost}
        self.seen.totals = counters.read_totals(self.fleet.table, shares)
        return self.seen.totals

    def _share_of(self, worker: int) -> int:
        """How many connections were this worker's, with what it took, and what nobody takes for it."""
        if not self._dealt:
            return self.plan.shards[worker].count
        lost, table = self.fleet.lost, self.fleet.table
        ramped = all(at for index, at in enumerate(table.column(counters.RAMPED_NS)) if index not in lost)
        goals = list(map(max, self._dealt, table.column(counters.GOAL)))
        if ramped and worker == min(lost):
            return self.plan.count - sum(goals) + goals[worker]
        return goals[worker]

    # when a phase is over

    def _ramp_is_over(self, totals: counters.Totals) -> bool:
        self._give_up_if_hopeless(totals)
        if self.seen.gave_up:
            return totals.in_flight == 0 and totals.started <= totals.established + totals.failed
        return totals.established + totals.failed >= self.plan.count

    def _give_up_if_hopeless(self, totals: counters.Totals) -> None:
        if not totals.established and totals.failed >= HOPELESS and not self.seen.gave_up:
            self.seen.gave_up = True
            self.fleet.send("stop")

    def _nothing_left(self, totals: counters.Totals) -> bool:
        return totals.held == 0 and not self.request.reconnect

    def _all_checked(self, totals: counters.Totals) -> bool:
        return self.checked >= set(self.fleet.alive)
