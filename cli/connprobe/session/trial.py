"""One trial of `limit` on one server: start, ramp in steps, peak, idle, messaging, verify, drain."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import IO, NamedTuple

from msgspec.structs import replace

from connprobe.engine import counters
from connprobe.engine.task import Task, TlsTask
from connprobe.errors import RunFailed
from connprobe.fleet.fleet import Fleet
from connprobe.model import (
    Ceiling,
    KernelFigures,
    Limit,
    LimitRequest,
    ListenerFigures,
    Phase,
    Reading,
    Stage,
    Trial,
    Verified,
)
from connprobe.observe.ceilings import server_ceilings
from connprobe.observe.listeners import listener_pids
from connprobe.observe.process import ProcessGroup
from connprobe.observe.reading import ServerMeter
from connprobe.plan.distribution import distribution
from connprobe.plan.prediction import Prediction, predict
from connprobe.plan.ramp import is_near, next_goal, shares, steps
from connprobe.plan.settle import Settling
from connprobe.plan.verify import End, is_of_server, verified
from connprobe.session.climb import Climb, slow
from connprobe.session.costs import Costs
from connprobe.session.heap import Heap
from connprobe.session.hold import HOPELESS, Hold
from connprobe.session.interrupts import Interrupts
from connprobe.session.prepare import Prepared
from connprobe.session.sampling import Progress
from connprobe.session.started import StartedServer
from connprobe.session.trigger import Trigger
from connprobe.store.rundir import RunDirectory

AFTERMATH_S, CALM_S = 10.0, 0.5  # after something broke: until the server is dead, or no more is lost
# A small step is spread over so long: a crowd breaks servers that could take one after another. And over so
# much longer that the server works no more than a share of the time: V8 ends a process that collects for most
# of it, however much is free.
PACE_S, PACE_MOST_S, WORKING = 0.5, 5.0, 0.25
QUIET_CPU, REST_S, REST_MOST_S = 0.5, 0.4, 3.0  # a rest between the steps near the end
TOLERATED_AT_REST = 2  # connections that may be lost while nothing happens, before it is the end
SOON_S = 5.0


class Launch(NamedTuple):
    """How the server of a trial comes about."""

    start: Callable[[], StartedServer] | None  # None: it runs already
    heap: Heap
    ceilings: Callable[[], Sequence[Ceiling]]  # of the client


class Over(Exception):
    """The trial cannot go on. reason: None: it was interrupted."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


class TrialRun(Hold):
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
        self.server: StartedServer | None = None
        self.readings: list[Reading] = []
        self.unsettled: list[Stage] = []
        self.prediction: Prediction | None = None
        self.ceilings: tuple[Ceiling, ...] = ()
        self.ceilings_at = 0
        self.verified: Verified | None = None
        self.broken: str | None = None
        self.held = 0
        self.idle_cpu_share: float | None = None
        self.message_cpu_s: float | None = None
        self.messaging_s: float | None = None
        self.kernel_figures: KernelFigures | None = None
        self.listeners: tuple[ListenerFigures, ...] = ()  # before --verify
        self._messaged: set[int] = set()
        self._goals = [0] * len(prepared.plan.shards)  # of each worker, in all
        self._kept: counters.Totals | None = None
        self._climbing: Climb | None = None
        self._served = True  # connections are still wanted
        self._gone = False
        self._off_bytes = 0.0
        self._meter: ServerMeter

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
        )

    @property
    def heap(self) -> Heap:
        return self._launch.heap

    @property
    def heap_unknown(self) -> str | None:
        return self._launch.heap.unknown

    # set-up

    def _reach_server(self, undo: ExitStack, log: IO[bytes]) -> ProcessGroup | None:
        if self._launch.start is None:
            return self._find_server()
        self.server = undo.enter_context(self._launch.start())
        assert self.target is not None
        place = self.server.wait_until_listening(
            self.asked.port, self.asked.startup_s, lambda: self.interrupts.by is not None
        )
        if place is not None:
            if (":" in place.address) != (self.target.family == "ipv6"):
                raise RunFailed(
                    f"the server listens on {place.address}, and the plan is for {self.target.family}",
                    fix=f"--target [{place.address}]:{place.port}"
                    if ":" in place.address
                    else f"--target {place.address}:{place.port}",
                )
            self.target = replace(self.target, host=place.address, address=place.address, port=place.port)
            self.plan = replace(self.plan, target=self.target)
        return ProcessGroup(self.server.pids())

    def _run(self, undo: ExitStack, log: IO[bytes]) -> None:
        first = self._sampler.server_start
        if first is None:
            raise RunFailed(
                f"the server's processes cannot be read: {self.seen.unknown.get('server', 'there are none')}",
                fix="run connprobe limit as root on the server's host, or name its process with --pid",
            )
        costs = Costs(first.pids)
        tasks = [task._replace(goal=0) for task in self._tasks()]
        self.fleet = undo.enter_context(
            Fleet("connprobe.engine.worker", "connprobe-w", tasks, counters.COLUMNS, log)
        )
        self.kernel.traffic.watch(first.pids, "target")
        self.kernel.traffic.watch(self.fleet.pids, "client")
        local = self.kernel.has_listeners
        self._meter = ServerMeter(first.pids, find=self._find_again, ends=2 if local else 1)
        with self._launch.heap:
            try:
                self._phases(costs)
            except Over as over:
                self.broken = self.broken or over.reason
                if self._gone and self.verified is None and self._climbing is not None and self._served:
                    self._bury(self._climbing)
        if self._kept is None:
            self._snapshot()
        self.seen.lost = dict(self.fleet.lost)
        self._close_all()

    def _find_again(self) -> Sequence[int]:
        if self.server is not None:
            return self.server.pids()
        assert self.target is not None
        return listener_pids(self._target_address(), self.target.port).pids

    # phases

    def _phases(self, costs: Costs) -> None:
        self._settle("start")
        self._meter.begin()  # what went on before on this host has settled too
        self._launch.heap.attach(self._meter.pids)
        self._read("start")
        self._read_ceilings(0)
        ramp_s, end = 0.0, None
        for goal in steps(self.asked_count, self.asked.steps):
            climb = self._climb(goal, "ramp")
            ramp_s += climb.took_s
            self.seen.ramp_s = ramp_s
            end = climb.end
            if goal == self.asked_count or end is not None:
                self._peak()
            if end is not None:
                break
            self._settle("ramp")
            self._read("ramp")
            self._snapshot()
        self.held = self._alive()
        if not self.held and end is None:
            raise Over("no connection is held")
        if end is None:
            self._idle(costs)
            self._predict()
            self._message()
            self._check()
        else:
            self._predict()
            self.broken = end.cause
        if not self._gone:
            self._snapshot()
        if end is not None:
            self._conclude(end)
        elif self.asked.verify:
            self._verify()
        self._served = False
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

    def _idle(self, costs: Costs) -> None:
        before, at = self._meter.quick(), time.monotonic()
        self._go("idle", lambda totals: False, at + self.request.hold_s)
        after, took = self._meter.quick(), time.monotonic() - at
        if before is not None and after is not None and took > 0:
            self.idle_cpu_share = (after[1] - before[1]) / took
        self.seen.hold_s = took
        self._measure_client()
        self.seen.server_idle = self._sampler.server_now
        local = self.kernel.has_listeners
        self.seen.kernel = self.kernel_figures = costs.kernel(self._read_totals().held, 2 if local else 1)
        self.kernel.traffic.take_census()
        self._settle("idle")
        self._read("idle")
        self._read_ceilings(self._alive())

    def _peak(self) -> None:
        """The most that was seen while the ramp went on, and the rest as it is at its end."""
        reading = self._meter.reading("peak", self._alive(), self._at_s(), False)
        most = self._sampler.server_peak_rss_bytes
        use = {**reading.use, "rss_bytes": max(most, reading.use.get("rss_bytes", 0.0))}
        if "rss_bytes" in reading.use:
            self.readings.append(replace(reading, use=use))

    def _predict(self) -> None:
        """None of the limits is known before the ramp has been read."""
        self.prediction = predict(
            self.readings, self.ceilings, self.held, at=self.ceilings_at, off_bytes=self._off_bytes
        )

    def _message(self) -> None:
        if self.asked.message_by == "none":
            self.seen.unknown["server.messaging_rss_bytes"] = "no messages were asked for"
            return
        server = self.asked.message_by == "server"
        if not server and self.request.http_mode != "keepalive" and self.request.protocol == "http":
            self.seen.unknown["server.messaging_rss_bytes"] = (
                "a client cannot say more on a response that is still open: --message-by server"
            )
            return
        before, at = self._meter.quick(), time.monotonic()
        sent_before = self._read_totals().messages_sent
        self._messaged = set()
        self.fleet.send("message", None if server else self.asked.message.encode())
        deadline = at + self.request.timeout_s + 10 + self.held / 2000
        if server and self.asked.message_path is not None:
            self._go("messaging", lambda now: now.messages_sent - sent_before >= now.held, at + SOON_S)
            assert self.target is not None
            with Trigger(
                self.target, self.asked.message_path, self._tls_task(), self.request.timeout_s
            ) as trigger:
                self._go("messaging", self._all_messaged, deadline)
                trigger.answer()
        else:
            self._go("messaging", self._all_messaged, deadline)
        after, self.messaging_s = self._meter.quick(), time.monotonic() - at
        if before is not None and after is not None:
            self.message_cpu_s = after[1] - before[1]
        self.readings.append(self._meter.reading("messaging", self._alive(), self._at_s(), False))

    def _verify(self) -> None:
        """On, until it breaks. Near the end in small steps, with a rest after each."""
        assert self.prediction is not None
        first = next((limit for limit in self.prediction.limits if is_of_server(limit)), None)
        end, pace_s = None, PACE_S
        while end is None:
            alive, begun = self._alive(), self._begun()
            if begun >= self.plan.count:
                end = End(alive, f"nothing broke: {alive:,} were held", {}, {}, reached=True)
                break
            goal = next_goal(begun, first, self.plan.count)
            near, before = is_near(begun, first), self._meter.quick()
            end = self._climb(goal, "verify", pace_s if near else 0.0).end
            after = self._meter.quick()
            if near and before is not None and after is not None:
                pace_s = min(PACE_MOST_S, max(PACE_S, (after[1] - before[1]) / WORKING))
            if end is None and is_near(goal, first):
                end = self._rest(first)
        self._conclude(end)

    def _bury(self, climb: Climb) -> None:
        """It died between two steps, or in another phase than the ramp."""
        if self.prediction is None:
            self.held = max((each.connections for each in self.readings), default=0)
            self._predict()
        self._conclude(self._death(climb, "verify"))

    def _conclude(self, end: End) -> None:
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

    # steps

    class _Climbed(NamedTuple):
        end: End | None
        took_s: float

    def _climb(self, goal: int, phase: Phase, pace_s: float = 0.0) -> _Climbed:
        """Up to `goal` connections begun, in `pace_s` or more; how it ended where it could take no more."""
        before, began = self._read_totals(), time.monotonic()
        handshakes = counters.read_handshakes(self.fleet.table)
        climb = self._climbing = Climb(goal, before)
        self._open_up_to(goal, pace_s)
        self._watch(phase, lambda totals: self._is_gone() or self._hopeless(totals) or climb.over(totals))
        took_s = time.monotonic() - began
        self._stop_if_interrupted()
        waiting = 0
        if climb.failing or climb.stalled or self._gone:
            self._wait_for_aftermath(phase)
        else:
            waiting = self._wait_for_accepts(phase)
        self._stop_if_interrupted()
        if self._gone:
            return self._Climbed(self._death(climb, phase), took_s)
        totals = self._read_totals()
        if climb.failing or climb.stalled or waiting:
            return self._Climbed(climb.end(totals, self._alive(), self._waiting()), took_s)
        late = slow(handshakes, counters.read_handshakes(self.fleet.table), self.asked.latency_limit_ms)
        if late is not None:
            cause = (
                f"99 % of handshakes took up to {late:,.0f} ms, past --latency-limit "
                f"{self.asked.latency_limit_ms:,.0f}ms"
            )
            return self._Climbed(End(before.held, cause, {}, {}), took_s)
        return self._Climbed(None, took_s)

    def _open_up_to(self, goal: int, pace_s: float) -> None:
        before = self._goals
        self._goals = shares(goal, [shard.count for shard in self.plan.shards], before)
        for index, (share, had) in enumerate(zip(self._goals, before, strict=True)):
            interval_s = pace_s / max(1, share - had)
            self.fleet.tell(index, "goal", share, interval_s, interval_s * index / len(self._goals))

    def _wait_for_aftermath(self, phase: Phase) -> None:
        """A process that is killed closes its connections before it is gone, and there may be thousands."""
        lost, since = -1, time.monotonic()

        def over(totals: counters.Totals) -> bool:
            nonlocal lost, since
            now, seen = time.monotonic(), totals.failed + totals.dropped
            if seen != lost:
                lost, since = seen, now
            return self._is_gone() or (not totals.in_flight and now - since >= CALM_S)

        self._watch(phase, over, time.monotonic() + AFTERMATH_S)

    def _death(self, climb: Climb, phase: Phase) -> End:
        ending, status, words = "its processes are gone", None, ""
        if self.server is not None:
            server, until = self.server, time.monotonic() + SOON_S
            self._watch(phase, lambda totals: not server.pids() and server.status is not None, until)
            ending, status, words = self.server.ending(), self.server.status, self.server.tail()
        return climb.died(self._read_totals(), ending, status, words)

    def _rest(self, first: Limit | None) -> End | None:
        """Until the CPU is quiet: memory that is never left in peace breaks earlier than it has to.

        A heap that is about to end is collected, as on the plateaus. A burst leaves V8 with a young
        generation larger than what is free: then it collects without a pause, and ends the process for it.
        """
        before = Climb(self._begun(), self._read_totals())
        until, since, last = time.monotonic() + REST_MOST_S, time.monotonic(), self._meter.quick()

        def rested(totals: counters.Totals) -> bool:
            nonlocal since, last
            now, use = time.monotonic(), self._meter.quick()
            if self._is_gone() or use is None or last is None:
                return True
            if now - since < REST_S:
                return False
            share = (use[1] - last[1]) / (now - since)
            since, last = now, use
            return share < QUIET_CPU

        self._watch("verify", rested, until)
        if lost := self._read_totals().dropped > before.before.dropped + TOLERATED_AT_REST:
            self._wait_for_aftermath("verify")
        self._stop_if_interrupted()
        if self._is_gone():
            return self._death(before, "verify")
        if lost:
            return before.end(self._read_totals(), self._alive(), 0)
        use = self._launch.heap.read() if first is not None and first.resource == "heap" else {}
        reading = self._meter.reading("verify", self._alive(), self._at_s(), False)
        self.readings.append(replace(reading, use={**reading.use, **use}))
        return None

    def _wait_for_accepts(self, phase: Phase) -> int:
        """Connections that lie in the accept queue and are not taken from it; 0: it gets there."""
        waiting, since = self._waiting(), time.monotonic()

        def over(totals: counters.Totals) -> bool:
            nonlocal waiting, since
            now = self._waiting()
            if now < waiting:
                since = time.monotonic()
            waiting = now
            return not now or self._is_gone() or time.monotonic() - since > SOON_S

        if waiting:
            self._watch(phase, over)
        return waiting

    def _settle(self, stage: Stage) -> None:
        settling = Settling(self.asked.settle_s)
        state = None

        def over(totals: counters.Totals) -> bool:
            nonlocal state
            use = self._meter.quick()
            if use is None:
                return True
            state = settling.feed(time.monotonic(), *use)
            return state.state != "waiting"

        self._go("start" if stage == "start" else "settle", over)
        if state is None or state.state != "settled":
            self.unsettled.append(stage)
        if state is not None:
            self._off_bytes = max(self._off_bytes, state.off_bytes)

    def _read(self, stage: Stage) -> None:
        settled = stage not in self.unsettled
        reading = self._meter.reading(stage, self._alive(), self._at_s(), settled)
        self.readings.append(replace(reading, use={**reading.use, **self._launch.heap.read()}))

    def _read_ceilings(self, at: int) -> None:
        assert self.target is not None
        found = server_ceilings(
            self._meter,
            self.facts,
            ports=(self.target.port,),
            between_requests=self.between_requests,
            same_host=self.kernel.has_listeners,
        )
        if found.found or not self.ceilings:
            self.ceilings = (*found.found, *self._launch.heap.ceilings(), *self._launch.ceilings())
            self.ceilings_at = at
        self.seen.unknown |= {f"limits.{resource}": why for resource, why in found.unknown.items()}

    # what is asked while waiting

    def _go(
        self, phase: Phase, over: Callable[[counters.Totals], bool], deadline: float = float("inf")
    ) -> None:
        """Watches until `over`. Raises Over where there is nothing more to wait for."""
        self._watch(phase, lambda totals: self._is_gone() or over(totals), deadline)
        self._stop_if_interrupted()
        if self._gone:
            ending = self.server.ending() if self.server is not None else "its processes are gone"
            raise Over(f"the server died: {ending}")

    def _stop_if_interrupted(self) -> None:
        if self.interrupts.by is not None:
            raise Over(None)
        if self.fleet.lost:
            raise Over(f"a worker of this client was lost: {next(iter(self.fleet.lost.values()))}")

    def _is_gone(self) -> bool:
        self._gone = self._gone or self._meter.quick() is None
        return self._gone

    def _hopeless(self, totals: counters.Totals) -> bool:
        return not totals.established and totals.failed >= HOPELESS

    def _all_messaged(self, totals: counters.Totals) -> bool:
        return self._messaged >= set(self.fleet.alive)

    def _hear(self, index: int, message: tuple[object, ...]) -> None:
        if message[0] == "messaged":
            self._messaged.add(index)
        super()._hear(index, message)

    def _read_totals(self) -> counters.Totals:
        totals = super()._read_totals()
        self.seen.totals = self._kept or totals
        return totals

    def _begun(self) -> int:
        totals = self._read_totals()
        return totals.established + totals.failed

    def _at_s(self) -> float:
        return round(time.monotonic() - (self._began or 0.0), 3)

    def _tls_task(self) -> TlsTask | None:
        task: Task = self._tasks()[0]
        return TlsTask(*task.tls) if task.tls is not None else None
