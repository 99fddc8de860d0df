"""`watch`: the kernel's and the server's figures, second by second, while somebody else makes the load.

Nothing is changed on the host. What is kept is bounded: the last readings, and one line of each in a file.
"""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from connprobe.errors import RunFailed
from connprobe.model import (
    WATCH_SCHEMA,
    CpuShares,
    ObserverFigures,
    ServerUse,
    WatchRecord,
    WatchSample,
)
from connprobe.observe.client import pss_of
from connprobe.observe.listeners import holders_of, sockets_of
from connprobe.observe.machine import CpuTimes, available_memory, cpu_times, utilisation
from connprobe.observe.process import ProcessGroup
from connprobe.observe.sockdiag import ListenSocket
from connprobe.plan.bottleneck import queue_verdict
from connprobe.report.watch import render_watch, watch_view
from connprobe.session.interrupts import Interrupts
from connprobe.session.kernelview import Choice, KernelView
from connprobe.store.rundir import RunDirectory
from connprobe.version import __version__

SEARCH_S = 5.0  # between two searches for the processes behind the listeners
FIRST_S = 0.5  # to the first reading
POLL_S = 0.1


class Watch:
    """One watching, from `open` to `record`."""

    def __init__(self, port: int | None, pid: int | None, *, bpf: bool, interval_s: float) -> None:
        self._port, self._pid, self._bpf, self._interval_s = port, pid, bpf, interval_s
        self._chosen: Sequence[ListenSocket] = ()
        self._server: ProcessGroup | None = ProcessGroup([pid]) if pid is not None else None
        self._known: frozenset[int] = frozenset()
        self._search_at = 0.0
        self._unknown: dict[str, str] = {}
        self._cpu: CpuTimes = cpu_times()
        self._began = time.monotonic()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._samples = self._late = 0
        self._last: WatchSample | None = None

    @property
    def label(self) -> str:
        if self._pid is not None:
            return f"pid {self._pid}" + (f", port {self._port}" if self._port else "")
        return f"port {self._port}" if self._port else "every listener"

    def open(self) -> KernelView:
        foreign = self._pid is not None and _namespace(self._pid) != _namespace(os.getpid())
        choose: Choice = self._choose
        view = KernelView(choose, bpf=self._bpf, pid=self._pid if foreign else None)
        self._began, self._cpu = time.monotonic(), cpu_times()
        return view

    def _choose(self, sockets: Sequence[ListenSocket]) -> Sequence[ListenSocket]:
        found = [entry for entry in sockets if self._port in (None, entry.port)]
        if self._pid is not None:
            try:
                found = sockets_of(self._pid, found)
            except PermissionError:
                self._unknown["listeners"] = f"/proc/{self._pid}/fd may not be read: run as root"
                found = []
        self._chosen = found
        return found

    def _processes(self, now: float) -> ServerUse | None:
        """The processes behind the listeners, looked for again when the listeners change."""
        if self._pid is None and self._port is not None:
            inodes = frozenset(entry.inode for entry in self._chosen)
            if inodes != self._known and now >= self._search_at:
                self._search_at = now + SEARCH_S
                found = holders_of(self._chosen)
                self._known = inodes
                self._server = ProcessGroup(found.pids) if found.pids else None
                if found.reason is not None:
                    self._unknown["server"] = found.reason
        return self._server.sample(now) if self._server is not None else None

    def sample(self, kernel: KernelView, due: float) -> WatchSample:
        now = time.monotonic()
        reading = kernel.read()
        cpu, before = cpu_times(), self._cpu
        self._cpu = cpu
        shares = utilisation(before, cpu)
        self._last = WatchSample(
            at_s=round(now - self._began, 3),
            lateness_s=round(max(0.0, now - due), 3),
            kernel=reading,
            cpu=CpuShares(**{name: round(share, 4) for name, share in shares._asdict().items()})
            if shares
            else None,
            memory_available_bytes=available_memory(),
            server=self._processes(now),
            observer_cpu_s=round(time.process_time(), 3),
            observer_pss_bytes=pss_of([os.getpid()]),
        )
        self._samples += 1
        self._late += now - due > self._interval_s / 2
        return self._last

    def record(self, kernel: KernelView) -> WatchRecord:
        listeners = kernel.listeners()
        last = self._last
        watched_s = last.at_s if last else 0.0
        verdicts = [queue_verdict(each, watched_s) for each in listeners]
        if not listeners:
            self._unknown.setdefault("listeners", "nothing was seen to listen there")
        if last is None or last.server is None:
            self._unknown.setdefault("server", "no process was found behind the listeners, or none is left")
        return WatchRecord(
            schema=WATCH_SCHEMA,
            connprobe=__version__,
            command="watch",
            started_at=self._started_at,
            watched=self.label,
            watched_s=watched_s,
            listeners=listeners,
            counters=kernel.counters(),
            server=last.server if last else None,
            observer=ObserverFigures(
                cpu_s=round(time.process_time(), 3),
                pss_bytes=pss_of([os.getpid()]),
                probes=kernel.probes(),
                samples=self._samples,
                late_samples=self._late,
            ),
            verdicts=tuple(verdict for verdict in verdicts if verdict is not None),
            unknown=self._unknown,
        )


def run_watch(
    port: int | None,
    pid: int | None,
    out: Console,
    err: Console,
    *,
    bpf: bool,
    interval_s: float,
    for_s: float,
    json: bool,
    results: Path | None,
) -> int:
    """Exit code 0, also after Ctrl-C, which is how a watching without --for ends."""
    watch = Watch(port, pid, bpf=bpf, interval_s=interval_s)
    with ExitStack() as undo:
        interrupts = undo.enter_context(Interrupts())
        directory = (
            undo.enter_context(RunDirectory.create(results, "watch", watch.label)) if results else None
        )
        kernel = undo.enter_context(watch.open())
        view = watch_view(err, watch.label, plain=json)
        with suppress(OSError):
            view.__enter__()
        try:
            due = time.monotonic() + min(FIRST_S, interval_s)
            end = time.monotonic() + for_s
            while interrupts.by is None and due <= end + 1e-9 and not out.file.closed:
                while interrupts.by is None and (left := due - time.monotonic()) > 0:
                    time.sleep(min(POLL_S, left))
                if interrupts.by is not None:
                    break
                sample = watch.sample(kernel, due)
                due = max(due + interval_s, time.monotonic())
                if directory is not None:
                    directory.append_sample(sample)
                if json:
                    out.file.write(msgspec.json.encode(sample).decode() + "\n")
                    out.file.flush()
                with suppress(OSError):  # the terminal went away
                    view.update(sample, end - time.monotonic() if for_s < float("inf") else None)
        finally:
            with suppress(OSError):
                view.__exit__(None, None, None)
        record = watch.record(kernel)
        if directory is not None:
            directory.write_watch(record)
    if not json:
        with suppress(OSError):
            render_watch(record, out, results=str(directory.path.absolute()) if directory else None)
    if directory is not None and directory.error is not None:
        raise RunFailed(
            f"samples.jsonl is not complete: {directory.error}", fix="free space in the results directory"
        )
    return 0


def _namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None
