"""Requests sent down one connection while the server behind it is looked at: what it has read, what it
takes, whether it still lives.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from socket import AF_INET, AF_INET6
from typing import NamedTuple

from connprobe.engine.pipeline import Pipeline
from connprobe.errors import RunFailed
from connprobe.model import Ended, PipelinePhase, PipelineRequest, PipelineSample, Stage, Target
from connprobe.observe.reading import ServerMeter
from connprobe.observe.sockdiag import unread_bytes
from connprobe.plan.limits.settle import Settling
from connprobe.plan.pipeline import MemoryBound, StoppedReading, budget
from connprobe.session.interrupts import Interrupts
from connprobe.session.started import StartedServer
from connprobe.session.target import sockaddr
from connprobe.store.rundir import RunDirectory

WINDOW = 1 << 18  # bytes that the server has not read yet: what comes on top of a memory bound at the most
NARROW = 1 << 12  # the same near the end: a server that dies had read no more than that when it did
LOOK_S = 0.02  # how often memory is held against its bound
WAIT_S = 0.002  # for the server to read on, which nothing tells
SAMPLE_S = 1.0
SETTLE_LOOK_S = 0.1
AFTERMATH_S = 2.0  # a connection that is lost may be the first that is seen of a death
QUIET_CPU, REST_S, REST_MOST_S = 0.5, 0.4, 3.0  # a rest between the steps near the end


class Over(Exception):
    """No more requests are sent."""

    def __init__(self, ended: Ended, by: str) -> None:
        super().__init__(by)
        self.ended, self.by = ended, by


class Use(NamedTuple):
    rss_bytes: int
    cpu_s: float


class Sending:
    """read_bytes: of what was sent, what the server has read. sent: whole requests that the kernel took.
    pending: the most at once that the server had read and not answered. off_bytes: as of Settled. gone: it
    died, or its connection did, so read_bytes and pending are what was last read: the least, not the truth.

    text: one request to that target. bound: of RSS. A derived class finds the server: `server`, `meter`.
    """

    def __init__(
        self,
        request: PipelineRequest,
        text: Callable[[Target], bytes],
        target: Target,
        bound: MemoryBound,
        directory: RunDirectory,
        interrupts: Interrupts,
    ) -> None:
        self.request, self.target, self.bound = request, target, bound
        self.directory, self.interrupts = directory, interrupts
        self.unsettled: list[Stage] = []
        self.unknown: dict[str, str] = {}
        self.peak_rss_bytes: int | None = None
        self.read_bytes = self.sent = self.pending = self.request_bytes = 0
        self.received_by_reading = True
        self.gone = False
        self.off_bytes = 0.0
        self.pipeline: Pipeline | None = None
        self.server: StartedServer | None = None  # None: it runs already
        self.meter: ServerMeter
        self.use = Use(0, 0.0)
        self._text = text
        self._began = time.monotonic()
        self._look_at = self._sample_at = 0.0

    @property
    def received(self) -> int:
        """Requests that the server has read to their last byte."""
        return self.read_bytes // self.request_bytes if self.request_bytes else 0

    @property
    def received_most(self) -> int:
        """As `received`, with what it may have read since it was looked at for the last time."""
        return max(self.received, self.sent) if self.gone else self.received

    @property
    def pending_most(self) -> int:
        answers = self.pipeline.answers if self.pipeline is not None else 0
        return max(self.pending, self.received_most - answers) if self.gone else self.pending

    def at_s(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def connect(self, undo: ExitStack) -> Pipeline:
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
            why = "the server's socket is not in this network namespace, or closed already"
        except OSError as error:
            known, why = False, f"sock_diag: {error.strerror}"
        self.received_by_reading = known
        if not known:
            self.unknown["received_by"] = f"{why}: what its kernel took counts as received"
        return found

    # sending

    def send(self, pipeline: Pipeline, goal: int, phase: PipelinePhase, window: int = WINDOW) -> float:
        """Until the server has read `goal` requests in all; how long that took. Raises Over.

        window: the most bytes that it has not read: a death is told to so many.
        """
        began, sent_before = time.monotonic(), pipeline.sent
        goal_bytes = goal * self.request_bytes
        window = max(window, self.request_bytes)
        stopped = StoppedReading(self.request.timeout_s)
        while True:
            now = time.monotonic()
            came = pipeline.receive()
            self.account(pipeline)
            if self.read_bytes >= goal_bytes:
                return time.monotonic() - began
            use = self.look(phase, pipeline)
            self.stop(pipeline, use)
            assert use is not None
            unread = pipeline.sent_bytes - self.read_bytes
            if stopped.feed(now, self.read_bytes, unread > 0, use.cpu_s):
                raise Over("stopped_reading", "it stopped reading")
            due = budget(self.request.rate_per_s, now - began, pipeline.sent - sent_before)
            room = min(goal_bytes - pipeline.sent_bytes, window - unread, due * self.request_bytes)
            room -= (pipeline.sent_bytes + room) % self.request_bytes  # whole requests
            wrote = pipeline.write(room) if room > 0 else 0
            if not wrote and not came:
                pipeline.wait(WAIT_S)

    def account(self, pipeline: Pipeline) -> None:
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
            self.pending = max(self.pending, self.pending_now(pipeline))

    def pending_now(self, pipeline: Pipeline) -> int:
        return max(0, self.received - pipeline.answers)

    def stop(self, pipeline: Pipeline, use: Use | None) -> None:
        """Raises Over where there is no going on."""
        if self.interrupts.by is not None:
            raise Over("interrupted", "the run was interrupted")
        if pipeline.over is not None:
            deadline = time.monotonic() + AFTERMATH_S
            while self.alive() and time.monotonic() < deadline:
                time.sleep(LOOK_S)
        if use is None or (pipeline.over is not None and not self.alive()):
            self._is_gone(pipeline)
            ending = self.server.ending() if self.server is not None else "its processes are gone"
            raise Over("died", f"the server died: {ending}")
        if pipeline.over is not None:
            self._is_gone(pipeline)
            raise Over("lost", pipeline.over)
        if use.rss_bytes >= self.bound.bytes:
            reached = (
                f"{use.rss_bytes / 1e6:,.0f} MB of RSS reached the bound of {self.bound.bytes / 1e6:,.0f} MB"
            )
            raise Over("memory_bound", reached)

    def _is_gone(self, pipeline: Pipeline) -> None:
        self.gone = True
        self.read_bytes = max(self.read_bytes, pipeline.answers * self.request_bytes)

    # looking

    def alive(self) -> bool:
        return self.meter.quick() is not None

    def look(self, phase: PipelinePhase, pipeline: Pipeline | None) -> Use | None:
        """RSS and CPU, not older than LOOK_S; a sample each second. None: the server is gone."""
        now = time.monotonic()
        if now >= self._look_at:
            found = self.meter.quick()
            if found is None:
                return None
            self.use = Use(*found)
            self.peak_rss_bytes = max(self.peak_rss_bytes or 0, found[0])
            self._look_at = time.monotonic() + LOOK_S
        if now >= self._sample_at:
            self._sample_at = now + SAMPLE_S
            self.directory.append_sample(
                PipelineSample(
                    at_s=self.at_s(),
                    phase=phase,
                    sent=self.sent,
                    received=self.received,
                    answered=pipeline.answers if pipeline is not None else 0,
                    socket_bytes=pipeline.sent_bytes - self.read_bytes if pipeline is not None else 0,
                    rss_bytes=self.use.rss_bytes,
                    cpu_s=self.use.cpu_s,
                )
            )
        return self.use

    def settle(self, stage: Stage) -> bool:
        """Whether memory settled in time. Answers are taken meanwhile: a server that cannot send may stop
        reading for that alone.
        """
        settling, state = Settling(self.request.settle_s), None
        while state is None or state.state == "waiting":
            self._look_at = 0.0
            use = self.look("start" if stage == "start" else "settle", self.pipeline)
            if self.interrupts.by is not None:
                raise Over("interrupted", "the run was interrupted")
            if self.pipeline is not None:
                self.pipeline.receive()
                self.account(self.pipeline)
                self._stop_unless_bound(self.pipeline, use)
            elif use is None:
                ending = self.server.ending() if self.server is not None else "its processes are gone"
                raise RunFailed(f"the server died before the first request: {ending}")
            assert use is not None
            state = settling.feed(time.monotonic(), *use)
            due = time.monotonic() + SETTLE_LOOK_S
            while (left := due - time.monotonic()) > 0:
                if self.pipeline is None:
                    time.sleep(left)
                elif not self.pipeline.receive():
                    self.pipeline.wait(left)
        if state.state != "settled":
            self.unsettled.append(stage)
        self.off_bytes = max(self.off_bytes, state.off_bytes)
        return state.state == "settled"

    def _stop_unless_bound(self, pipeline: Pipeline, use: Use | None) -> None:
        """What the bound stops is sending."""
        try:
            self.stop(pipeline, use)
        except Over as over:
            if over.ended != "memory_bound":
                raise

    def rest(self) -> None:
        """Until the CPU is quiet: memory that is never left in peace breaks earlier than it has to."""
        assert self.pipeline is not None
        until, since, last = time.monotonic() + REST_MOST_S, time.monotonic(), self.use
        while time.monotonic() < until:
            self.pipeline.receive()
            self.pipeline.wait(LOOK_S)
            use = self.look("verify", self.pipeline)
            self.stop(self.pipeline, use)
            assert use is not None
            now = time.monotonic()
            if now - since < REST_S:
                continue
            share = (use.cpu_s - last.cpu_s) / (now - since)
            since, last = now, use
            if share < QUIET_CPU:
                return
