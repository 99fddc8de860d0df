"""Joins counters, server and machine into one `Sample` a second, writes it down and shows it."""

import time
from contextlib import suppress
from typing import Protocol

from connprobe.engine import counters
from connprobe.fleet.shared import SharedTable
from connprobe.model import Phase, Sample, ServerUse
from connprobe.observe.machine import available_memory
from connprobe.observe.process import ProcessGroup
from connprobe.plan.histogram import percentile
from connprobe.session.kernel.kernelview import KernelView
from connprobe.store.rundir import RunDirectory

SAMPLE_S = 1.0
DRAW_S = 0.5
LATE_S = SAMPLE_S / 2


class Progress(Protocol):
    def update(self, sample: Sample, phase_left_s: float | None = None, note: str | None = None) -> None: ...


class Sampler:
    """`tick` often; it samples and draws when that is due. Times are CLOCK_MONOTONIC."""

    def __init__(
        self,
        directory: RunDirectory,
        progress: Progress,
        server: ProcessGroup | None,
        kernel: KernelView,
        began: float | None = None,
    ) -> None:
        self.samples = self.late_samples = 0
        self.server_start: ServerUse | None = None
        self.server_last: ServerUse | None = None  # while it lived
        self.server_now: ServerUse | None = None
        self.server_peak_rss_bytes = 0
        self._directory, self._progress, self._server, self._kernel = directory, progress, server, kernel
        self._began = time.monotonic() if began is None else began
        self._next_sample: float | None = None
        self._next_draw = 0.0
        self._last: Sample | None = None
        if server is not None:
            self.server_start = self.server_last = server.sample(time.monotonic())

    def begin(self, phase: Phase) -> None:
        """Samples and draws once before there are workers, whose time it would take otherwise.

        The next one is due a second after the first `tick` of theirs, however long they take to start.
        """
        self.tick(phase, counters.Totals(), None, None)
        self._next_sample = None

    def tick(
        self, phase: Phase, totals: counters.Totals, table: SharedTable | None, deadline: float | None
    ) -> None:
        """table: of the workers, if there are any yet. deadline: when the phase ends, where that is known."""
        now = time.monotonic()
        fresh = self._last is None or phase != self._last.phase
        if self._next_sample is None and not fresh:
            self._next_sample = now + SAMPLE_S
        if fresh or self._next_sample is None or now >= self._next_sample:
            self._sample(phase, totals, table, now)
        if fresh or now >= self._next_draw:
            self._next_draw = now + DRAW_S
            assert self._last is not None
            with suppress(OSError):  # the terminal is gone: the run is not
                self._progress.update(self._last, None if deadline is None else max(0.0, deadline - now))

    def _sample(self, phase: Phase, totals: counters.Totals, table: SharedTable | None, now: float) -> None:
        due = now if self._next_sample is None else min(self._next_sample, now)
        handshakes = counters.read_handshakes(table) if table is not None else ()
        p50, p99 = percentile(handshakes, 0.5), percentile(handshakes, 0.99)
        use = self._server.sample(now) if self._server is not None else None
        self.server_now = use
        if use is not None:
            self.server_last = use
            self._kernel.traffic.follow(use.pids)
            self.server_peak_rss_bytes = max(self.server_peak_rss_bytes, use.rss_bytes)
        before = self._last
        at_s = now - self._began
        elapsed = at_s - (before.at_s if before else 0.0)
        opened = totals.established - (before.established if before else 0)
        self._last = Sample(
            at_s=round(at_s, 3),
            lateness_s=round(now - due, 3),
            phase=phase,
            started=totals.started,
            established=totals.established,
            held=totals.held,
            in_flight=totals.in_flight,
            failures=totals.failures,
            drops=totals.drops,
            rate_per_s=round(opened / elapsed, 1) if elapsed > 0 else 0.0,
            handshake_p50_ms=p50 / 1000 if p50 is not None else None,
            handshake_p99_ms=p99 / 1000 if p99 is not None else None,
            memory_available_bytes=available_memory(),
            server=use,
            kernel=self._kernel.read(),
        )
        self.samples += 1
        self.late_samples += now - due > LATE_S
        self._directory.append_sample(self._last)
        # A reading that takes as long as the interval must not become all that this process does.
        self._next_sample = max(due + SAMPLE_S, time.monotonic() + SAMPLE_S / 2)
