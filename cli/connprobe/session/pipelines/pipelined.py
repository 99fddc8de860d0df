"""One run of `pipeline` on one server: start, requests in settled steps, on until it breaks, release."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from msgspec.structs import replace

from connprobe.engine.pipeline import Pipeline
from connprobe.errors import RunFailed
from connprobe.model import (
    Answers,
    Ceiling,
    Ended,
    Limit,
    PipelineRequest,
    PipelineStep,
    Reading,
    Stage,
    Target,
    Verified,
)
from connprobe.observe.listeners import listener_pids
from connprobe.observe.memoryceilings import memory_ceilings
from connprobe.observe.reading import ServerMeter
from connprobe.plan.limits.limits import limits
from connprobe.plan.limits.prediction import DRIFTS, Prediction, growths, predict
from connprobe.plan.limits.ramp import is_near, next_goal, steps
from connprobe.plan.limits.verify import End, verified
from connprobe.plan.pipeline import ANSWERED_SHARE, MemoryBound, StoppedReading
from connprobe.session.heap import Heap
from connprobe.session.interrupts import Interrupts
from connprobe.session.pipelines.sending import LOOK_S, NARROW, WINDOW, Over, Sending
from connprobe.session.started import StartedServer
from connprobe.session.trigger import Trigger
from connprobe.store.rundir import RunDirectory

VERIFY_UP_TO = 10  # times the count
RELEASED_PER_S = 500  # the least that a server which is told to answer is given time for
NOTHING_READ = "the server was gone before what it had read was looked at"
METRICS = frozenset({"rss_bytes", "pss_bytes", "uss_bytes", "heap_bytes", "cgroup_bytes"})


class PipelineRun(Sending):
    """`execute` raises RunFailed before the first request; afterwards all it found is in the attributes.

    start: None: the server runs already. say: takes a line of progress.
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
        super().__init__(request, text, target, bound, directory, interrupts)
        self.heap = heap
        self.ended: Ended = "interrupted"
        self.ended_by = "the run was interrupted before it began"
        self.steps: list[PipelineStep] = []
        self.readings: list[Reading] = []
        self.prediction: Prediction | None = None
        self.bound_met: Limit | None = None
        self.verified: Verified | None = None
        self.verifying = False  # it came so far
        self.server_pids: tuple[int, ...] = ()
        self.start_rss_bytes: int | None = None
        self.early = 0
        self.expected: int | None = None
        self.release_s: float | None = None
        self.release_failed: str | None = None
        self._start, self._say = start, say
        self._ceilings: tuple[Ceiling, ...] = ()

    def execute(self) -> None:
        with ExitStack() as undo:
            undo.enter_context(self.heap)
            pids = self._reach_server(undo)
            if self.interrupts.by is not None:
                return
            self.meter = ServerMeter(pids, find=self._find_again)
            if self.meter.quick() is None:
                raise RunFailed(
                    f"the server's processes cannot be read: {self.meter.group.reason or 'there are none'}",
                    fix="run connprobe pipeline as root on the server's host, or name its process with --pid",
                )
            try:
                self._measure(undo)
            except Over as over:
                self.ended, self.ended_by = over.ended, over.by

    @property
    def answers(self) -> Answers:
        found = self.pipeline
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
        self.server = undo.enter_context(self._start())
        place = self.server.wait_until_listening(
            self.request.port, self.request.startup_s, lambda: self.interrupts.by is not None
        )
        if place is not None:
            self.target = replace(
                self.target,
                host=place.address,
                address=place.address,
                port=place.port,
                family="ipv6" if ":" in place.address else "ipv4",
            )
        return self.server.pids()

    def _find_again(self) -> Sequence[int]:
        if self.server is not None:
            return self.server.pids()
        if self.request.server_pid is not None:
            return (self.request.server_pid,)
        return listener_pids(self.target.scoped_address, self.target.port).pids

    # phases

    def _measure(self, undo: ExitStack) -> None:
        settled = self.settle("start")
        self.meter.begin()
        self.heap.attach(self.meter.pids)
        self._read("start", settled)
        self._read_ceilings()
        self.server_pids = self.meter.pids
        self.start_rss_bytes = self.use.rss_bytes
        pipeline = self.pipeline = self.connect(undo)
        try:
            self._ramp(pipeline)
            self.ended, self.ended_by = "count", "all that were asked for are pending"
        except Over as over:
            self.ended, self.ended_by = over.ended, over.by
        self.early = pipeline.answers
        self._predict()
        if self.request.verify and self.ended == "count":
            self._verify(pipeline)
        elif self.ended == "died":
            self._conclude(self._death())
        if self.ended in ("count", "stopped_reading", "memory_bound") and self.interrupts.by is None:
            self._release(pipeline)

    def _ramp(self, pipeline: Pipeline) -> None:
        goals = steps(self.request.count, self.request.steps)
        for number, goal in enumerate(goals, 1):
            try:
                took_s = self.send(pipeline, goal, "ramp")
            except Over as over:
                if over.ended in ("stopped_reading", "memory_bound"):
                    self._step(pipeline, None)
                raise
            step = self._step(pipeline, took_s)
            rss = self.use.rss_bytes / 1e6
            self._say(
                f"step {number} of {len(goals)}: {step.pending:,} requests pending, {rss:,.1f} MB of RSS"
            )
            if step.answered > ANSWERED_SHARE * step.received:
                raise Over("answered", "it answers requests that it was to keep")

    def _step(self, pipeline: Pipeline, took_s: float | None) -> PipelineStep:
        """Settles, and reads."""
        settled = self.settle("ramp")
        self.account(pipeline)
        step = PipelineStep(
            sent=self.sent,
            received=self.received,
            answered=pipeline.answers,
            pending=self.pending_now(pipeline),
            socket_bytes=pipeline.sent_bytes - self.read_bytes,
            send_s=None if took_s is None else round(took_s, 3),
            settled=settled,
        )
        self.steps.append(step)
        self._read("ramp", settled)
        return step

    def _predict(self) -> None:
        held = max((reading.connections for reading in self.readings), default=0)
        self.prediction = predict(self.readings, self._ceilings, held, at=0, off_bytes=self.off_bytes)
        bound = Ceiling(
            resource="memory_bound",
            scope="connprobe",
            capacity=self.bound.bytes,
            source=self.bound.source,
            fix="--memory-bound with more, where memory allows",
            metric="rss_bytes",
            used=self.use.rss_bytes,
            unit="bytes",
        )
        off = dict.fromkeys(DRIFTS, self.off_bytes) if self.off_bytes else {}
        self.bound_met = next(iter(limits([bound], growths(self.readings), held, off=off)), None)

    def _read_ceilings(self) -> None:
        """At the start: later the server may be dead, and none of them moves with requests."""
        try:
            own = [_by_rss(each, self.use.rss_bytes) for each in memory_ceilings(self.meter)]
            self._ceilings = (*own, *self.heap.ceilings())
        except OSError as error:
            self.unknown["limits"] = str(error)

    def _verify(self, pipeline: Pipeline) -> None:
        """On, until it breaks. Near the end in small steps, with a rest after each."""
        assert self.prediction is not None
        self.verifying = True
        first = next(iter(self.prediction.limits), None)
        most = VERIFY_UP_TO * self.request.count
        try:
            while self.sent < most:
                goal = next_goal(self.sent, first, most)
                near = is_near(goal, first)
                self.send(pipeline, goal, "verify", NARROW if near else WINDOW)
                if near:
                    self.rest()
                self._say(f"{self.pending:,} requests pending, {self.use.rss_bytes / 1e6:,.1f} MB of RSS")
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
                end = End(self.pending, over.by, {}, {}, most=self._most())
        self._conclude(end)

    def _conclude(self, end: End) -> None:
        if self.gone and not self.pending and self.pending_most:
            self.unknown["verified"] = NOTHING_READ
            return
        self.verified = verified(end, self.prediction.limits if self.prediction else ())

    def _death(self) -> End:
        status, words = None, ""
        if self.server is not None:
            self.server.pids()
            status, words = self.server.status, self.server.tail()
        return End(self.pending, self.ended_by, {}, {}, True, status, words, most=self._most())

    def _most(self) -> int | None:
        return self.pending_most if self.pending_most > self.pending else None

    def _release(self, pipeline: Pipeline) -> None:
        """On a second connection; until all that were pending are answered, or nothing comes any more."""
        path = self.request.release_path
        if path is None:
            self.unknown["answers.released"] = "nothing was released: --release-path names no path"
            return
        before = pipeline.answers
        self.expected = self.pending_now(pipeline)
        self.early = before
        began = time.monotonic()
        self._say(f"releasing {self.expected:,} requests")
        patience_s = self.request.timeout_s
        patience = StoppedReading(patience_s + self.expected / RELEASED_PER_S, quiet_s=patience_s)
        fix = "--release-path, a path that makes it answer"
        ask = Trigger(
            self.target,
            path,
            None,
            patience_s,
            "answer",
            fix,
            lambda: self.interrupts.by is not None,
            self.request.headers,
        )
        try:
            with ask as trigger:
                while pipeline.answers - before < self.expected:
                    if not pipeline.receive():
                        pipeline.wait(LOOK_S)
                    pipeline.complete()
                    if self.interrupts.by is not None:
                        raise Over("interrupted", "the run was interrupted while answers came")
                    if pipeline.over is not None and pipeline.answers - before < self.expected:
                        raise RunFailed(pipeline.over)
                    use = self.look("release", pipeline)
                    if use is None:
                        raise RunFailed("the server died when it was to answer")
                    if patience.feed(time.monotonic(), pipeline.answer_bytes, True, use.cpu_s):
                        raise RunFailed("no more answers came")
                self.release_s = round(time.monotonic() - began, 3)
                trigger.answer()
        except RunFailed as failure:
            self.release_failed = failure.message

    def _read(self, stage: Stage, settled: bool) -> None:
        """Kernel memory is left out: it is that of one connection, and of all others of this host."""
        pending = self.pending_now(self.pipeline) if self.pipeline is not None else 0
        reading = self.meter.reading(stage, 1, self.at_s(), settled)
        use = {metric: value for metric, value in reading.use.items() if metric in METRICS}
        use |= self.heap.read()
        self.readings.append(replace(reading, connections=pending, use=use))
        if self.heap.unknown is not None:
            self.unknown["runtime"] = self.heap.unknown


def _by_rss(ceiling: Ceiling, start_rss_bytes: int) -> Ceiling:
    """The host's memory against RSS alone: requests take no other."""
    if ceiling.metric != "memory_bytes":
        return ceiling
    return replace(ceiling, metric="rss_bytes", capacity=ceiling.capacity + start_rss_bytes, used=None)
