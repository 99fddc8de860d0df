"""`watch`: the kernel's and the server's figures, second by second, while somebody else makes the load.

Nothing is changed on the host. What is kept is bounded: the last readings, and one line of each in a file.
"""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console

from connprobe.errors import RunFailed
from connprobe.model import (
    WATCH_SCHEMA,
    CpuShares,
    ListenerFigures,
    ObserverFigures,
    Verdict,
    WatchRecord,
    WatchSample,
)
from connprobe.observe.client import pss_of
from connprobe.observe.machine import CpuTimes, available_memory, cpu_times, utilisation
from connprobe.plan.bottleneck import queue_verdict
from connprobe.plan.limits.traffic import burst_limits
from connprobe.report.liveview import shown
from connprobe.report.watch import WatchView, render_watch, watch_view
from connprobe.session.ending import write
from connprobe.session.interrupts import Interrupts
from connprobe.session.kernel.kernelview import KernelView, reasons
from connprobe.session.kernel.probes import load_probes
from connprobe.session.watching.watchcosting import WatchCosting
from connprobe.session.watching.watched import Watched
from connprobe.store.rundir import RunDirectory
from connprobe.system import netns
from connprobe.version import __version__

FIRST_S = 0.5  # to the first reading
POLL_S = 0.1


class Watch:
    """One watching, from `open` to `record`."""

    def __init__(
        self, port: int | None, pid: int | None, *, bpf: bool, system_calls: bool, interval_s: float
    ) -> None:
        self._port, self._pid, self._interval_s = port, pid, interval_s
        self._bpf, self._system_calls = bpf, system_calls
        self._watched = Watched(port, pid)
        self._unknown: dict[str, str] = {}
        self._cpu: CpuTimes = cpu_times()
        self._began = time.monotonic()
        self._own_cpu_s = 0.0
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._samples = self._late = 0
        self._last: WatchSample | None = None
        self._costing = WatchCosting(foreign=False)

    @property
    def label(self) -> str:
        if self._pid is not None:
            return f"pid {self._pid}" + (f", port {self._port}" if self._port else "")
        return f"port {self._port}" if self._port else "every listener"

    def open(self, undo: ExitStack) -> KernelView:
        foreign = None
        if self._pid is not None and netns.is_foreign(self._pid):
            refused = netns.enter(self._pid)
            if refused is not None:
                foreign = self._pid
                self._costing = WatchCosting(foreign=True)
                self._unknown["network namespace"] = (
                    f"that of process {self._pid} cannot be entered ({refused}), so /proc/{self._pid}/net "
                    "alone tells of its listeners: run as root"
                )
        loaded = undo.enter_context(load_probes(system_calls=self._system_calls)) if self._bpf else None
        view = KernelView(self._watched.choose, loaded, pid=foreign)
        self._began, self._cpu = time.monotonic(), cpu_times()
        self._own_cpu_s = time.process_time()
        return view

    @property
    def over(self) -> bool:
        """The process that is watched has exited, and so have its children."""
        gone = self._last is not None and self._last.server is None
        return self._pid is not None and gone and not Path(f"/proc/{self._pid}").exists()

    def sample(self, kernel: KernelView, due: float) -> WatchSample:
        now = time.monotonic()
        reading = kernel.read()
        cpu, before = cpu_times(), self._cpu
        self._cpu = cpu
        shares = utilisation(before, cpu)
        server = self._watched.processes()
        if server is not None:
            kernel.traffic.follow(server.pids)
        self._costing.look(reading, server, kernel.ports, now - self._began)
        self._last = WatchSample(
            at_s=round(now - self._began, 3),
            lateness_s=round(max(0.0, now - due), 3),
            kernel=reading,
            cpu=CpuShares(**{name: round(share, 4) for name, share in shares._asdict().items()})
            if shares
            else None,
            memory_available_bytes=available_memory(),
            server=server,
            observer_cpu_s=self._observer_cpu_s(),
            observer_pss_bytes=pss_of([os.getpid()]),
        )
        self._samples += 1
        self._late += now - due > self._interval_s / 2
        return self._last

    def _observer_cpu_s(self) -> float:
        return round(time.process_time() - self._own_cpu_s, 3)

    def record(self, kernel: KernelView) -> WatchRecord:
        kernel.traffic.take_census()
        listeners, network, counters = kernel.listeners(), kernel.network(), kernel.counters()
        probes = kernel.probes()
        watched_s = self._last.at_s if self._last else 0.0
        costed, looks = self._costing.costed(kernel.ports), self._costing.looks
        unknown = {**self._unknown, **self._watched.unknown, **reasons(listeners, probes), **costed.unknown}
        if not listeners:
            unknown.setdefault("listeners", "nothing was seen to listen there")
        if self._watched.last is None:
            named = self._pid is not None or self._port is not None
            why = (
                "no process was found behind the listeners" if named else "neither --port nor --pid names one"
            )
            unknown.setdefault("server", why)
        missing = [name for name, moved in counters.items() if moved is None]
        if network is None:
            unknown["network"] = "no eBPF: see observer.probes"
        if missing:
            unknown["counters"] = f"this kernel lacks {', '.join(missing)}"
        return WatchRecord(
            schema=WATCH_SCHEMA,
            connprobe=__version__,
            command="watch",
            started_at=self._started_at,
            watched=self.label,
            watched_s=watched_s,
            listeners=listeners,
            network=network,
            counters=counters,
            server=self._watched.last,
            observer=ObserverFigures(
                cpu_s=self._observer_cpu_s(),
                pss_bytes=pss_of([os.getpid()]),
                probes=probes,
                samples=self._samples,
                late_samples=self._late,
            ),
            verdicts=tuple(self._verdicts(listeners, watched_s)),
            connections_fewest=looks.fewest,
            connections_most=looks.most,
            limits=(*costed.limits, *burst_limits(listeners, None)),
            headline=costed.headline,
            growth=costed.growth,
            unknown=unknown,
        )

    def _verdicts(self, listeners: Sequence[ListenerFigures], watched_s: float) -> list[Verdict]:
        verdicts = [queue_verdict(each, watched_s, ours=False) for each in listeners]
        if self.over:
            verdicts.append(Verdict(level="note", text=f"Process {self._pid} has exited."))
        return [verdict for verdict in verdicts if verdict is not None]


def run_watch(
    port: int | None,
    pid: int | None,
    out: Console,
    err: Console,
    *,
    bpf: bool,
    system_calls: bool,
    interval_s: float,
    for_s: float,
    json: bool,
    results: Path | None,
) -> int:
    """Exit code 0, also after Ctrl-C, which is how a watching without --for ends."""
    watch = Watch(port, pid, bpf=bpf, system_calls=system_calls, interval_s=interval_s)
    with ExitStack() as undo:
        interrupts = undo.enter_context(Interrupts())
        directory = (
            undo.enter_context(RunDirectory.create(results, "watch", watch.label)) if results else None
        )
        kernel = watch.open(undo)
        view = watch_view(err, watch.label, plain=json)
        with shown(view):
            _read_on(watch, kernel, view, interrupts, directory, out if json else None, interval_s, for_s)
        record = watch.record(kernel)
        unwritten = None
        if directory is not None:
            unwritten = write(directory, partial(directory.write_watch, record))
    with suppress(OSError):
        render_watch(
            record,
            err if json else out,
            results=str(directory.path.absolute()) if directory else None,
        )
    if unwritten is not None:
        raise unwritten
    return 0


def _read_on(
    watch: Watch,
    kernel: KernelView,
    view: WatchView,
    interrupts: Interrupts,
    directory: RunDirectory | None,
    lines: Console | None,
    interval_s: float,
    for_s: float,
) -> None:
    """Until the time is over, an interruption, the end of the process or of who reads; the last is read."""
    began = time.monotonic()
    end = began + for_s
    due = min(began + min(FIRST_S, interval_s), end)
    while True:
        while interrupts.by is None and (left := due - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left))
        sample = watch.sample(kernel, min(due, time.monotonic()))
        if directory is not None:
            directory.append_sample(sample)
        if lines is not None and not _write_line(lines, sample):
            return
        with suppress(OSError):  # the terminal went away
            view.update(sample, end - time.monotonic() if for_s < float("inf") else None)
        if interrupts.by is not None or due >= end or watch.over:
            return
        # A reading that takes as long as the interval must not become all that this process does.
        due = min(max(due + interval_s, time.monotonic() + interval_s / 2), end)


def _write_line(out: Console, sample: WatchSample) -> bool:
    """False: nobody reads any more (`| head`)."""
    try:
        out.file.write(msgspec.json.encode(sample).decode() + "\n")
        out.file.flush()
    except BrokenPipeError:
        out.on_broken_pipe()
        return False
    except OSError as error:
        raise RunFailed(f"standard output cannot be written: {error.strerror or error}") from error
    return True
