"""One run of `pipeline` on one server: start, requests in settled steps, on until it breaks, release."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from msgspec.structs import replace

from connprobe.engine.pipeline import Pipeline
from connprobe.errors import RunFailed
from connprobe.model import (
    Answers,
    Ceiling,
    Ended,
    Limit,
    PipelinePhase,
    PipelineRequest,
    PipelineSample,
    PipelineStep,
    Reading,
    Stage,
    Target,
    Verified,
)
from connprobe.observe.listeners import listener_pids
from connprobe.observe.memoryceilings import memory_ceilings
from connprobe.observe.reading import ServerMeter
from connprobe.observe.sockdiag import unread_bytes
from connprobe.plan.limits import limits
from connprobe.plan.pipeline import ANSWERED_SHARE, MemoryBound, StoppedReading, budget
from connprobe.plan.prediction import DRIFTS, Prediction, growths, predict
from connprobe.plan.ramp import is_near, next_goal, steps
from connprobe.plan.settle import Settling
from connprobe.plan.verify import End, verified
from connprobe.session.heap import Heap
from connprobe.session.interrupts import Interrupts
from connprobe.session.started import StartedServer
from connprobe.session.trigger import Trigger
from connprobe.store.rundir import RunDirectory

WINDOW = 1 << 18  # bytes that the server has not read yet: what comes on top of a memory bound at the most
LOOK_S = 0.02  # how often memory is held against its bound
WAIT_S = 0.002  # for the server to read on, which nothing tells
SAMPLE_S = 1.0
AFTERMATH_S = 2.0  # a connection that is lost may be the first that is seen of a death
QUIET_CPU, REST_S, REST_MOST_S = 0.5, 0.4, 3.0  # a rest between the steps near the end
VERIFY_UP_TO = 10  # times the count
RELEASED_PER_S = 500  # the least that a server which is told to answer is given time for
METRICS = frozenset({"rss_bytes", "pss_bytes", "uss_bytes", "heap_bytes", "cgroup_bytes"})


class Over(Exception):
    """No more requests are sent."""

    def __init__(self, ended: Ended, by: str) -> None:
        super().__init__(by)
        self.ended, self.by = ended, by


class Use(NamedTuple):
    rss_bytes: int
    cpu_s: float


class PipelineRun:
    """`execute` raises RunFailed before the first request; afterwards all it found is in the attributes.

    text: one request. start: None: the server runs already. say: takes a line of progress.
    """

    def __init__(
        self,
        request: PipelineRequest,
        text: Callable[[Target], bytes],
        target: Target,
        bound: MemoryBound,
        start: Callable[[], StartedServer] | None,
        heap: Heap,
        directory: RunDirectory,
        interrupts: Interrupts,
        say: Callable[[str], None],
    ) -> None:
        self.request, self.target, self.bound, self.heap = request, target, bound, heap
        self.ended: Ended = "interrupted"
        self.ended_by = "the run was interrupted before it began"
        self.steps: list[PipelineStep] = []
        self.readings: list[Reading] = []
        self.unsettled: list[Stage] = []
        self.unknown: dict[str, str] = {}
        self.prediction: Prediction | None = None
        self.bound_met: Limit | None = None
        self.verified: Verified | None = None
        self.verifying = False  # it came so far
        self.server_pids: tuple[int, ...] = ()
        self.start_rss_bytes: int | None = None
        self.peak_rss_bytes: int | None = None
        self.read_bytes = self.sent = self.pending = self.request_bytes = 0
        self.received_by_reading = True
        self.send_s = 0.0
        self.early = 0
        self.expected: int | None = None
        self.release_s: float | None = None
        self.release_failed: str | None = None
        self._text, self._start = text, start
        self._directory, self._interrupts, self._say = directory, interrupts, say
        self._server: StartedServer | None = None
        self._meter: ServerMeter
        self._pipeline: Pipeline | None = None
        self._began = time.monotonic()
        self._use = Use(0, 0.0)
        self._look_at = self._sample_at = 0.0
        self._off_bytes = 0.0

    def execute(self) -> None:
        with ExitStack() as undo:
            undo.enter_context(self.heap)
            pids = self._reach_server(undo)
            if self._interrupts.by is not None:
                return
            self._meter = ServerMeter(pids, find=self._find_again)
            if self._meter.quick() is None:
                raise RunFailed(
                    f"the server's processes cannot be read: {self._meter.group.reason or 'there are none'}",
                    fix="run connprobe pipeline as root on the server's host, or name its process with --pid",
                )
            try:
                self._measure(undo)
            except Over as over:
                self.ended, self.ended_by = over.ended, over.by

    @property
    def answers(self) -> Answers:
        found = self._pipeline
        answered = found.answers if found is not None else 0
        return Answers(
            early=self.early,
            expected=self.expected,
            released=None if self.expected is None else answered - self.early,
            statuses={str(status): count for status, count in sorted(found.statuses.items())}
            if found is not None
            else {},
            bytes=found.answer_bytes if found is not None else 0,
            in_order=None if found is None or found.disordered is None else found.disordered == 0,
            release_s=self.release_s,
        )

    @property
    def held(self) -> int:
        """The most that were pending before --verify."""
        return max((each.pending for each in self.steps), default=self.pending)

    @property
    def received(self) -> int:
        return self.read_bytes // self.request_bytes if self.request_bytes else 0

    # the server

    def _reach_server(self, undo: ExitStack) -> Sequence[int]:
        if self._start is None:
            found = self._find_again()
            if not found:
                raise RunFailed(
                    f"the process that listens on {self.target.label} is not found on this host",
                    fix="run as root on the server's host, or name its process with --pid",
                )
            return found
        self._server = undo.enter_context(self._start())
        place = self._server.wait_until_listening(
            self.request.port, self.request.startup_s, lambda: self._interrupts.by is not None
        )
        if place is not None:
            self.target = replace(
                self.target,
                host=place.address,
                address=place.address,
                port=place.port,
                family="ipv6" if ":" in place.address else "ipv4",
            )
        return self._server.pids()

    def _find_again(self) -> Sequence[int]:
        if self._server is not None:
            return self._server.pids()
        if self.request.server_pid is not None:
            return (self.request.server_pid,)
        scope = f"%{self.target.scope_id}" if self.target.scope_id else ""
        return listener_pids(f"{self.target.address}{scope}", self.target.port).pids

    # phases

    def _measure(self, undo: ExitStack) -> None:
        self._settle("start")
        self._meter.begin()
        self.heap.attach(self._meter.pids)
        self._read("start")
        self.server_pids = self._meter.pids
        self.start_rss_bytes = self._use.rss_bytes
        pipeline = self._pipeline = self._connect(undo)
        try:
            self._ramp(pipeline)
            self.ended, self.ended_by = "count", "all that were asked for are pending"
        except Over as over:
            self.ended, self.ended_by = over.ended, over.by
            if over.ended in ("stopped_reading", "memory_bound"):
                self._step(pipeline, None)
        self.early = pipeline.answers
        self._predict()
        if self.request.verify and self.ended == "count":
            self._verify(pipeline)
        elif self.ended == "died":
            self._conclude(self._death())
        if self.ended in ("count", "stopped_reading", "memory_bound") and self._interrupts.by is None:
            self._release(pipeline)

    def _connect(self, undo: ExitStack) -> Pipeline:
        from socket import AF_INET, AF_INET6

        from connprobe.session.target import sockaddr

        text = self._text(self.target)
        self.request_bytes = len(text)
        family = AF_INET6 if self.target.family == "ipv6" else AF_INET
        try:
            found = Pipeline(family, sockaddr(self.target), text, self.request.timeout_s)
        except OSError as error:
            raise RunFailed(
                f"no connection to {self.target.label}: {error.strerror or error}",
                fix="ss -ltn shows what listens; check --target or --port",
            ) from error
        undo.callback(found.close)
        try:
            known = unread_bytes(found.peer, found.local) is not None
            why = "the server's socket is not in this network namespace"
        except OSError as error:
            known, why = False, f"sock_diag: {error.strerror}"
        self.received_by_reading = known
        if not known:
            self.unknown["received_by"] = f"{why}: what its kernel took counts as received"
        return found

    def _ramp(self, pipeline: Pipeline) -> None:
        goals = steps(self.request.count, self.request.steps)
        for number, goal in enumerate(goals, 1):
            took_s = self._send(pipeline, goal, "ramp")
            step = self._step(pipeline, took_s)
            rss = self._use.rss_bytes / 1e6
            self._say(
                f"step {number} of {len(goals)}: {step.pending:,} requests pending, {rss:,.1f} MB of RSS"
            )
            if step.answered > ANSWERED_SHARE * step.received:
                raise Over("answered", "it answers requests that it was to keep")

    def _step(self, pipeline: Pipeline, took_s: float | None) -> PipelineStep:
        """Settles, and reads."""
        self._settle("ramp")
        self._account(pipeline)
        step = PipelineStep(
            sent=self.sent,
            received=self.received,
            answered=pipeline.answers,
            pending=self._pending_now(pipeline),
            socket_bytes=pipeline.sent_bytes - self.read_bytes,
            send_s=round(
                took_s if took_s is not None else self.send_s - sum(s.send_s for s in self.steps), 3
            ),
            settled="ramp" not in self.unsettled,
        )
        self.steps.append(step)
        self._read("ramp")
        return step

    def _predict(self) -> None:
        held = max((reading.connections for reading in self.readings), default=0)
        own: list[Ceiling] = []
        if self._alive():
            own = [_by_rss(each, self.start_rss_bytes or 0) for each in memory_ceilings(self._meter)]
        ceilings = (*own, *self.heap.ceilings()) if self.readings else ()
        self.prediction = predict(self.readings, ceilings, held, at=held, off_bytes=self._off_bytes)
        bound = Ceiling(
            resource="memory_bound",
            scope="connprobe",
            capacity=self.bound.bytes,
            source=self.bound.source,
            fix="--memory-bound with more, where memory allows",
            metric="rss_bytes",
            used=self._use.rss_bytes,
            unit="bytes",
        )
        off = dict.fromkeys(DRIFTS, self._off_bytes) if self._off_bytes else {}
        self.bound_met = next(iter(limits([bound], growths(self.readings), held, off=off)), None)

    def _verify(self, pipeline: Pipeline) -> None:
        """On, until it breaks. Near the end in small steps, with a rest after each."""
        assert self.prediction is not None
        self.verifying = True
        first = next(iter(self.prediction.limits), None)
        most = VERIFY_UP_TO * self.request.count
        try:
            while self.sent < most:
                goal = next_goal(self.sent, first, most)
                self._send(pipeline, goal, "verify")
                if is_near(goal, first):
                    self._rest()
                self._say(f"{self.pending:,} requests pending, {self._use.rss_bytes / 1e6:,.1f} MB of RSS")
            end = End(self.pending, f"nothing broke: {self.pending:,} were pending", {}, {}, reached=True)
        except Over as over:
            self.ended, self.ended_by = over.ended, over.by
            if over.ended == "interrupted":
                return
            if over.ended == "memory_bound":
                end = End(self.pending, f"{over.by}; nothing broke", {}, {}, reached=True)
            elif over.ended == "died":
                end = self._death()
            else:
                end = End(self.pending, over.by, {}, {})
        self._conclude(end)

    def _conclude(self, end: End) -> None:
        self.verified = verified(end, self.prediction.limits if self.prediction else ())

    def _death(self) -> End:
        status, words = None, ""
        if self._server is not None:
            self._server.pids()
            status, words = self._server.status, self._server.tail()
        return End(self.pending, self.ended_by, {}, {}, True, status, words)

    def _release(self, pipeline: Pipeline) -> None:
        """On a second connection; until all that were pending are answered, or nothing comes any more."""
        path = self.request.release_path
        if path is None:
            self.unknown["answers.released"] = "nothing was released: --release-path names no path"
            return
        before = pipeline.answers
        self.expected = self._pending_now(pipeline)
        self.early = before
        began = time.monotonic()
        self._say(f"releasing {self.expected:,} requests")
        patience = StoppedReading(self.request.timeout_s + self.expected / RELEASED_PER_S)
        fix = "--release-path, a path that makes it answer"
        try:
            with Trigger(self.target, path, None, self.request.timeout_s, "answer", fix) as trigger:
                while pipeline.answers - before < self.expected:
                    if not pipeline.receive():
                        pipeline.wait(LOOK_S)
                    pipeline.complete()
                    if self._interrupts.by is not None:
                        raise Over("interrupted", "the run was interrupted while answers came")
                    if pipeline.over is not None and pipeline.answers - before < self.expected:
                        raise RunFailed(pipeline.over)
                    use = self._look("release", pipeline)
                    if use is None:
                        raise RunFailed("the server died when it was to answer")
                    if patience.feed(time.monotonic(), pipeline.answer_bytes, True, use.cpu_s):
                        raise RunFailed("no more answers came")
                self.release_s = round(time.monotonic() - began, 3)
                trigger.answer()
        except RunFailed as failure:
            self.release_failed = failure.message

    # sending

    def _send(self, pipeline: Pipeline, goal: int, phase: PipelinePhase) -> float:
        """Until the server has read `goal` requests in all; how long that took. Raises Over."""
        began, sent_before = time.monotonic(), pipeline.sent
        goal_bytes = goal * self.request_bytes
        window = max(WINDOW, 4 * self.request_bytes)
        stopped = StoppedReading(self.request.timeout_s)
        try:
            while True:
                now = time.monotonic()
                came = pipeline.receive()
                self._account(pipeline)
                if self.read_bytes >= goal_bytes:
                    return time.monotonic() - began
                use = self._look(phase, pipeline)
                self._stop(pipeline, use)
                assert use is not None
                unread = pipeline.sent_bytes - self.read_bytes
                if stopped.feed(now, self.read_bytes, unread > 0, use.cpu_s):
                    raise Over("stopped_reading", "it stopped reading, with its CPU quiet")
                due = budget(self.request.rate_per_s, now - began, pipeline.sent - sent_before)
                room = min(goal_bytes - pipeline.sent_bytes, window - unread, due * self.request_bytes)
                room -= (pipeline.sent_bytes + room) % self.request_bytes  # whole requests
                wrote = pipeline.write(room) if room > 0 else 0
                if not wrote and not came:
                    pipeline.wait(WAIT_S)
        finally:
            self.send_s += time.monotonic() - began

    def _account(self, pipeline: Pipeline) -> None:
        """What the server has read by now: sent, less what is in our socket and what is in its own.

        Ours first: what moves on meanwhile is then counted twice as unread, never as read.
        """
        try:
            waiting = pipeline.unacknowledged_bytes()
            if self.received_by_reading and pipeline.over is None:
                there = unread_bytes(pipeline.peer, pipeline.local)
                if there is None:
                    return  # it is gone: what was known last stays
                waiting += there
            if pipeline.over is None:
                self.read_bytes = max(self.read_bytes, pipeline.sent_bytes - waiting)
        except OSError:
            return
        finally:
            self.sent = pipeline.sent
            self.pending = max(self.pending, self._pending_now(pipeline))

    def _pending_now(self, pipeline: Pipeline) -> int:
        return max(0, self.received - pipeline.answers)

    def _stop(self, pipeline: Pipeline, use: Use | None) -> None:
        """Raises Over where there is no going on."""
        if self._interrupts.by is not None:
            raise Over("interrupted", "the run was interrupted")
        if pipeline.over is not None:
            deadline = time.monotonic() + AFTERMATH_S
            while self._alive() and time.monotonic() < deadline:
                time.sleep(LOOK_S)
        if use is None or (pipeline.over is not None and not self._alive()):
            ending = self._server.ending() if self._server is not None else "its processes are gone"
            raise Over("died", f"the server died: {ending}")
        if pipeline.over is not None:
            raise Over("lost", pipeline.over)
        if use.rss_bytes >= self.bound.bytes:
            reached = (
                f"{use.rss_bytes / 1e6:,.0f} MB of RSS reached the bound of {self.bound.bytes / 1e6:,.0f} MB"
            )
            raise Over("memory_bound", reached)

    # looking

    def _alive(self) -> bool:
        return self._meter.quick() is not None

    def _look(self, phase: PipelinePhase, pipeline: Pipeline | None) -> Use | None:
        """RSS and CPU, not older than LOOK_S; a sample each second. None: the server is gone."""
        now = time.monotonic()
        if now >= self._look_at:
            found = self._meter.quick()
            if found is None:
                return None
            self._use = Use(*found)
            self.peak_rss_bytes = max(self.peak_rss_bytes or 0, found[0])
            self._look_at = time.monotonic() + LOOK_S
        if now >= self._sample_at:
            self._sample_at = now + SAMPLE_S
            self._directory.append_sample(
                PipelineSample(
                    at_s=self._at_s(),
                    phase=phase,
                    sent=self.sent,
                    received=self.received,
                    answered=pipeline.answers if pipeline is not None else 0,
                    socket_bytes=pipeline.sent_bytes - self.read_bytes if pipeline is not None else 0,
                    rss_bytes=self._use.rss_bytes,
                    cpu_s=self._use.cpu_s,
                )
            )
        return self._use

    def _settle(self, stage: Stage) -> None:
        """Answers are taken meanwhile: a server that cannot send would stop reading for that alone."""
        settling, state = Settling(self.request.settle_s), None
        while state is None or state.state == "waiting":
            self._look_at = 0.0
            use = self._look("start" if stage == "start" else "settle", self._pipeline)
            if self._interrupts.by is not None:
                raise Over("interrupted", "the run was interrupted")
            if self._pipeline is not None:
                self._pipeline.receive()
                self._account(self._pipeline)
                self._stop_unless_bound(self._pipeline, use)
            elif use is None:
                ending = self._server.ending() if self._server is not None else "its processes are gone"
                raise RunFailed(f"the server died before the first request: {ending}")
            assert use is not None
            state = settling.feed(time.monotonic(), *use)
            if self._pipeline is not None:
                self._pipeline.wait(0.1)
            else:
                time.sleep(0.1)
        if state.state != "settled":
            self.unsettled.append(stage)
        self._off_bytes = max(self._off_bytes, state.off_bytes)

    def _stop_unless_bound(self, pipeline: Pipeline, use: Use | None) -> None:
        """What the bound stops is sending."""
        try:
            self._stop(pipeline, use)
        except Over as over:
            if over.ended != "memory_bound":
                raise

    def _rest(self) -> None:
        """Until the CPU is quiet: memory that is never left in peace breaks earlier than it has to."""
        assert self._pipeline is not None
        until, since, last = time.monotonic() + REST_MOST_S, time.monotonic(), self._use
        while time.monotonic() < until:
            self._pipeline.receive()
            self._pipeline.wait(LOOK_S)
            use = self._look("verify", self._pipeline)
            self._stop(self._pipeline, use)
            assert use is not None
            now = time.monotonic()
            if now - since < REST_S:
                continue
            share = (use.cpu_s - last.cpu_s) / (now - since)
            since, last = now, use
            if share < QUIET_CPU:
                return

    def _read(self, stage: Stage) -> None:
        """Kernel memory is left out: it is that of one connection, and of all others of this host."""
        pending = self._pending_now(self._pipeline) if self._pipeline is not None else 0
        reading = self._meter.reading(stage, 1, self._at_s(), stage not in self.unsettled)
        use = {metric: value for metric, value in reading.use.items() if metric in METRICS}
        use |= self.heap.read()
        self.readings.append(replace(reading, connections=pending, use=use))
        if self.heap.unknown is not None:
            self.unknown["runtime"] = self.heap.unknown

    def _at_s(self) -> float:
        return round(time.monotonic() - self._began, 3)


def _by_rss(ceiling: Ceiling, start_rss_bytes: int) -> Ceiling:
    """The host's memory against RSS alone: requests take no other."""
    if ceiling.metric != "memory_bytes":
        return ceiling
    return replace(ceiling, metric="rss_bytes", capacity=ceiling.capacity + start_rss_bytes, used=None)
