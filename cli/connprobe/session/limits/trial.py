"""One trial of `limit` on one server: start, ramp in steps, peak, idle, messaging, verify, drain."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import IO, NamedTuple

from msgspec.structs import replace

from connprobe.engine import counters
from connprobe.errors import RunFailed
from connprobe.model import (
    Ceiling,
    KernelFigures,
    LimitRequest,
    ListenerFigures,
    Trial,
    Verified,
)
from connprobe.observe.ceilings import working
from connprobe.observe.process import ProcessGroup
from connprobe.observe.reading import ServerMeter
from connprobe.plan.distribution import distribution
from connprobe.plan.limits.ramp import steps
from connprobe.plan.limits.settle import Settling
from connprobe.plan.limits.stages import SHORTEST_S
from connprobe.plan.limits.verify import End, is_of_server, verified
from connprobe.session.costs import Costs
from connprobe.session.heap import Heap
from connprobe.session.interrupts import Interrupts
from connprobe.session.limits.climbing import Lost, Over
from connprobe.session.limits.messaging import Messaging, none_said
from connprobe.session.limits.stages import Staged
from connprobe.session.prepare import Prepared
from connprobe.session.sampling import Progress
from connprobe.session.started import Place, StartedServer
from connprobe.session.trigger import Trigger
from connprobe.session.workertasks import tls_task
from connprobe.store.rundir import RunDirectory


class Launch(NamedTuple):
    """How the server of a trial comes about."""

    start: Callable[[], StartedServer] | None  # None: it runs already
    heap: Heap
    ceilings: Callable[[], Sequence[Ceiling]]  # of the client
    plan: Callable[[str], Prepared]  # for another target, as `HOST:PORT`


class TrialRun(Staged):
    """`execute` returns the record of a hold; what the trial itself found is in `trial`."""

    command = "limit"

    def __init__(
        self,
        prepared: Prepared,
        directory: RunDirectory,
        progress: Progress,
        interrupts: Interrupts,
        *,
        asked: LimitRequest,
        number: int,
        launch: Launch,
        began: float,
    ) -> None:
        super().__init__(prepared, directory, progress, interrupts, began)
        self.asked, self.number, self._launch = asked, number, launch
        self.heap = launch.heap
        self._begin_climbing(len(prepared.plan.shards))
        self._begin_stages(launch.ceilings)
        self.verified: Verified | None = None
        self.broken: str | None = None
        self.idle_cpu_share: float | None = None
        self.working: tuple[int, int] | None = None  # processes that take connections, and their threads
        self.message_cpu_s: float | None = None
        self.messaging_s: float | None = None
        self.kernel_figures: KernelFigures | None = None
        self.listeners: tuple[ListenerFigures, ...] = ()  # before --verify
        self._messaging: Messaging | None = None
        self._kept: counters.Totals | None = None
        self._driven = True  # what breaks now does so for the number of connections
        self._others_opened: int | None = None

    def trial(self) -> Trial:
        """To be asked after `execute`."""
        found, totals = self.prediction, self.seen.totals or counters.Totals()
        table = self.seen.table
        counts = counters.read_messages(table) if table is not None else []
        return Trial(
            number=self.number,
            readings=tuple(self.readings),
            growth=found.growth if found else (),
            limits=found.limits if found else (),
            left_out=found.left_out if found else (),
            held=self.held,
            message_ms=distribution(counts, totals.message_sum_us, totals.message_max_us),
            messages=totals.messages_answered,
            message_cpu_s=self.message_cpu_s,
            messaging_s=self.messaging_s,
            idle_cpu_share=self.idle_cpu_share,
            kernel=self.kernel_figures,
            verified=self.verified,
            broken=self.broken,
            unsettled=tuple(dict.fromkeys(self.unsettled)),
            others_opened=self._others_opened,
        )

    # set-up

    def _reach_server(self, undo: ExitStack, log: IO[bytes]) -> ProcessGroup | None:
        undo.enter_context(self.heap)
        if self._launch.start is None:
            return self._find_server()
        self.server = undo.enter_context(self._launch.start())
        assert self.target is not None
        place = self.server.wait_until_listening(
            self.asked.port, self.asked.startup_s, lambda: self.interrupts.by is not None
        )
        if place is not None:
            if (":" in place.address) != (self.target.family == "ipv6"):
                self._plan_again(place)
            self.target = replace(self.target, host=place.address, address=place.address, port=place.port)
            self.plan = replace(self.plan, target=self.target)
        return ProcessGroup(self.server.pids())

    def _plan_again(self, place: Place) -> None:
        """It listens by the other family than was planned for. Raises RunFailed."""
        prepared = self._launch.plan(place.label)
        if prepared.obstacles:
            first = prepared.obstacles[0]
            raise RunFailed(
                f"the server listens on {place.label}: {first.what}: have {first.have}, need {first.need}",
                fix=first.fix,
            )
        self.plan, self.facts, self.target = prepared.plan, prepared.facts, prepared.target
        self._begin_climbing(len(self.plan.shards))

    def _run(self, undo: ExitStack, log: IO[bytes]) -> None:
        first = self._sampler.server_start
        if first is None:
            raise RunFailed(
                f"the server's processes cannot be read: {self.seen.unknown.get('server', 'there are none')}",
                fix="run connprobe limit as root on the server's host, or name its process with --pid",
            )
        costs = Costs(first.pids)
        tasks = [task._replace(goal=0) for task in self._tasks()]
        self.fleet = undo.enter_context(self._make_fleet(tasks, log))
        self.kernel.traffic.watch(first.pids, "target")
        self.kernel.traffic.watch(self.fleet.pids, "client")
        self._meter = ServerMeter(first.pids, find=self._find_again, ends=self._ends)
        self._listening = self._listeners_pids()
        try:
            self._phases(costs)
        except Over as over:
            self.broken = self.broken or over.reason
            if isinstance(over, Lost):
                self._snapshot()  # or the totals would be those before
            if self.prediction is None:
                self.held = max((each.connections for each in self.readings), default=0)
                self._predict()
            if self._gone and self.verified is None and self._climbing is not None and self._driven:
                self._conclude(self._death(self._climbing, "verify"))
        if self._kept is None:
            self._snapshot()
        if self.broken is not None and not self.seen.checked:
            self.seen.checked = True  # nobody was asked
            self.seen.unknown["held"] = "as last counted: the trial ended before the check"
        self.seen.lost = dict(self.fleet.lost)
        self._close_all()

    # phases

    def _phases(self, costs: Costs) -> None:
        self._settle("start")
        self._meter.begin()  # what went on before on this host has settled too
        self.heap.attach(self._meter.pids)
        self._read("start")
        self._read_ceilings(0)
        ramp_s, end = 0.0, None
        for goal in steps(self.asked_count, self.asked.steps):
            self._sampler.server_peak_rss_bytes = 0
            climb = self._climb(goal, "ramp")
            ramp_s += climb.took_s
            self.seen.ramp_s = ramp_s
            end = climb.end
            if goal == self.asked_count or end is not None:
                self._peak()
            if end is not None:
                break
            self._settle("ramp")
            self._check_losses("their memory settled")
            self._read("ramp")
            self._snapshot()
        self.held = self._taken()
        if not self.held and end is None:
            raise Over("no connection is held")
        if end is None:
            self._driven = False
            self._idle(costs)
            self._check_losses("they were idle")
            self._predict()
            self._message()
            self._check_losses("messages went round")
            self._check()
            self._driven = True
        else:
            self._predict()
            self.broken = end.cause
        if not self._gone:
            self._snapshot()
        if end is not None:
            self._conclude(end)
        elif self.asked.verify:
            self._verify()
        self._driven = False
        if not self._gone:
            self._drain()

    @property
    def asked_count(self) -> int:
        return min(self.request.count, self.plan.count)

    def _snapshot(self) -> None:
        """What is counted for the record; what --verify breaks afterwards is told by `verified`."""
        self._kept = super()._read_totals()
        self.listeners = self.kernel.listeners()
        self.seen.table = self.fleet.table.copy()
        if self.server is None and self.target is not None:
            self.kernel.traffic.read((self.target.port,))
            opened = self.kernel.traffic.opened()
            ours = self._kept.established + self._kept.failed
            self._others_opened = None if opened is None else max(0, opened - ours)

    def _idle(self, costs: Costs) -> None:
        before, at = self._meter.quick(), time.monotonic()
        self._go("idle", lambda totals: False, at + self.request.hold_s)
        after, took = self._meter.quick(), time.monotonic() - at
        if before is not None and after is not None and took >= SHORTEST_S:
            self.idle_cpu_share = (after[1] - before[1]) / took
        self.seen.hold_s = took
        self._measure_client()
        self.seen.server_idle = self._sampler.server_now
        self.seen.kernel = self.kernel_figures = costs.kernel(self._read_totals().held, self._ends)
        self.kernel.traffic.take_census()
        self._settle("idle")
        self._read("idle")
        self._read_ceilings(self._taken())
        with suppress(OSError):
            pids = working(self._meter)
            threads = [each.threads for each in self._meter.group.processes if each.pid in pids]
            self.working = (len(pids), sum(threads))

    def _message(self) -> None:
        asked = self.asked
        if (why := none_said(asked, self.request)) is not None:
            self.seen.unknown["server.messaging_rss_bytes"] = why
            return
        assert self.target is not None
        message = asked.message.encode() if asked.message_by == "client" else None
        trigger = None
        if message is None and asked.message_path is not None:
            tls = tls_task(self.request, self.target)
            trigger = Trigger(
                self.target,
                asked.message_path,
                tls,
                self.request.timeout_s,
                hurry=lambda: self.interrupts.by is not None,
                headers=self.request.headers,
            )
        before, at = self._meter.quick(), time.monotonic()
        deadline = at + self.request.timeout_s + 10 + self.held / 2000
        self._messaging = Messaging(self.fleet, partial(self._go, "messaging"))
        try:
            self._messaging.go_round(message, trigger, self._read_totals(), deadline)
        except RunFailed as failure:
            self.seen.unknown["messaging"] = f"{failure.message}; {failure.fix}"
            return
        after, self.messaging_s = self._meter.quick(), time.monotonic() - at
        if before is not None and after is not None:
            self.message_cpu_s = after[1] - before[1]
        self.readings.append(self._meter.reading("messaging", self._taken(), self._at_s(), False))

    def _verify(self) -> None:
        assert self.prediction is not None
        first = next((limit for limit in self.prediction.limits if is_of_server(limit)), None)
        self._conclude(self._climb_on(first))

    def _conclude(self, end: End) -> None:
        if not end.died and not self._read_totals().established:
            return  # it took none of them for what they are: that is no number
        limits = self.prediction.limits if self.prediction else ()
        self.verified = verified(end, limits)

    def _drain(self) -> None:
        """All connections are closed: what the server gives back."""
        self._close_all()
        settling = Settling(self.asked.settle_s)
        while self.interrupts.by is None:
            use = self._meter.quick()
            if use is None:
                raise Over("the server ended when its connections did")
            state = settling.feed(time.monotonic(), *use)
            closed = self._read_totals()._replace(held=0, in_flight=0)
            self._sampler.tick("drain", closed, self.fleet.table, None)
            if state.state != "waiting":
                break
            time.sleep(0.1)
        if self.interrupts.by is None:
            self.readings.append(self._meter.reading("drain", 0, self._at_s(), state.state == "settled"))

    def _hear(self, index: int, message: tuple[object, ...]) -> None:
        if message[0] == "messaged" and self._messaging is not None:
            self._messaging.hear(index)
        super()._hear(index, message)

    def _read_totals(self) -> counters.Totals:
        totals = super()._read_totals()
        self.seen.totals = self._kept or totals
        return totals
