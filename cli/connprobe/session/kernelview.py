"""All that a run asks the kernel: probes by eBPF where they serve, sock_diag and /proc below them.

One second's reading costs a few milliseconds, however many connections there are.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from connprobe.kernel import accept_queue, accept_wait
from connprobe.kernel.listeners import Endpoint
from connprobe.kernel.live import Live
from connprobe.kernel.loader import Loaded, Unavailable, load
from connprobe.model import (
    Distribution,
    KernelSample,
    ListenerFigures,
    ListenSocketFigures,
    ProbeUse,
    QueueSample,
)
from connprobe.observe.acceptqueue import AcceptQueues as SampledQueues
from connprobe.observe.machine import CpuTimes, cpu_times, slab_bytes, utilisation
from connprobe.observe.snmp import deltas, read_counters
from connprobe.observe.sockdiag import ListenSocket, listen_sockets, listen_sockets_from_proc
from connprobe.plan.acceptqueue import capacity_from, reconcile_overflows
from connprobe.plan.distribution import distribution

Choice = Callable[[Sequence[ListenSocket]], Sequence[ListenSocket]]

SWITCHED_OFF = "switched off by --no-bpf"
_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
_WRAP = 1 << 32


class _Queue(NamedTuple):
    """One listener over the whole run: its last reading, and its deepest."""

    last: accept_queue.AcceptQueue
    depth_max: int

    @property
    def fullness(self) -> float:
        return self.depth_max / max(1, self.last.capacity)


class KernelView:
    """Attached once it is made, detached when it is left.

    choose: which LISTEN sockets are meant. pid: one in whose network namespace they are; None: our own.
    """

    def __init__(self, choose: Choice, *, bpf: bool, pid: int | None = None) -> None:
        self._choose, self._pid = choose, pid
        self._loaded: Loaded | None = load([accept_queue.probe(), accept_wait.probe()]) if bpf else None
        self._torn: dict[str, str] = {}
        self._lost: dict[str, dict[str, int]] = {}
        self._inodes: set[int] = set()
        self._queues: dict[int, _Queue] = {}
        self._waits: dict[int, accept_wait.AcceptWait] = {}
        self._longest_us: dict[Endpoint, int] = {}
        self._drops_before: dict[tuple[int, int | None], int] = {}
        self._drops: dict[tuple[int, int | None], int] = {}
        self._somaxconn = _number(_SOMAXCONN)
        self._sampled = SampledQueues(self._somaxconn)
        self._counters_before = self._counters()
        self._cpu: CpuTimes = cpu_times()
        self._read_queues = self._read_waits = None
        queue, wait = self._live("accept_queue"), self._live("accept_wait")
        if queue is not None:
            self._read_queues = accept_queue.AcceptQueues(queue).read
        if wait is not None:
            self._read_waits = accept_wait.AcceptWaits(wait).read
        self.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._loaded is not None:
            self._loaded.close()

    @property
    def has_listeners(self) -> bool:
        """Some that were meant were seen: the server is in this network namespace."""
        return bool(self._inodes)

    # every second

    def read(self) -> KernelSample:
        """What happened since the reading before."""
        sockets = self._listening()
        mine = self._choose(sockets)
        self._inodes |= {entry.inode for entry in mine}
        self._note_drops(sockets)
        self._sampled.sample(mine)
        recent = self._read_accept_queue()
        self._read_accept_wait()
        cpu, before = cpu_times(), self._cpu
        self._cpu = cpu
        shares = utilisation(before, cpu)
        return KernelSample(
            queues=tuple(self._queue_samples(recent)),
            slab_bytes=slab_bytes(),
            softirq=None if shares is None else round(shares.softirq, 4),
            counters={name: moved for name, moved in self.counters().items() if moved},
        )

    def _listening(self) -> list[ListenSocket]:
        if self._pid is not None:
            return listen_sockets_from_proc(0, self._pid)
        try:
            return listen_sockets()
        except OSError:
            return listen_sockets_from_proc()

    def _note_drops(self, sockets: Iterable[ListenSocket]) -> None:
        first = not self._drops_before
        for entry in sockets:
            if entry.drops is not None:
                key = (entry.inode, entry.cookie)
                self._drops_before.setdefault(key, entry.drops if first else 0)
                self._drops[key] = entry.drops

    def _read_accept_queue(self) -> dict[int, int] | None:
        """The deepest of each listener in this interval, by inode. None: no probe tells."""
        if self._read_queues is None:
            return None
        try:
            reading = self._read_queues()
        except OSError as error:
            self._tear("accept_queue", error)
            self._read_queues = None
            return None
        self._lost["accept_queue"] = reading.lost
        recent = {}
        for queue in reading.listeners:
            (inode,) = queue.inodes
            if inode in self._inodes:
                known = self._queues.get(inode)
                self._queues[inode] = _Queue(queue, max(queue.depth_max, known.depth_max if known else 0))
                recent[inode] = queue.depth_max
        return recent

    def _read_accept_wait(self) -> None:
        if self._read_waits is None:
            return
        try:
            reading = self._read_waits()
        except OSError as error:
            self._tear("accept_wait", error)
            self._read_waits = None
            return
        unseen = sum(each.unseen for each in reading.vanished)
        self._lost["accept_wait"] = reading.lost | ({"accepted unseen": unseen} if unseen else {})
        for wait in reading.listeners:
            if wait.inode in self._inodes:
                self._waits[wait.inode] = wait
                longest = self._longest_us.get(wait.at, 0)
                self._longest_us[wait.at] = max(longest, wait.longest_us)

    def _tear(self, name: str, error: OSError) -> None:
        self._torn[name] = f"torn away in the run: {error.strerror or error}"

    def _queue_samples(self, recent: dict[int, int] | None) -> list[QueueSample]:
        if recent is None:
            return [_sampled(each) for each in self._sampled.figures()]
        samples = []
        for at, group in self._groups().items():
            now = [(queue, recent.get(inode, 0)) for inode, queue in group]
            fullest = max(now, key=lambda one: one[1] / max(1, one[0].last.capacity))
            wait = self._wait(at)
            samples.append(
                QueueSample(
                    address=str(at),
                    sockets=len(group),
                    depth=sum(queue.last.depth for queue, _ in now),
                    depth_max=fullest[1],
                    capacity_each=fullest[0].last.capacity,
                    overflows=sum(queue.last.overflows for queue, _ in now),
                    enqueued=sum(queue.last.enqueued for queue, _ in now),
                    accepted=sum(queue.last.accepted for queue, _ in now),
                    wait_p50_ms=wait.p50 if wait else None,
                    wait_p99_ms=wait.p99 if wait else None,
                )
            )
        return samples

    def _groups(self) -> dict[Endpoint, list[tuple[int, _Queue]]]:
        groups: dict[Endpoint, list[tuple[int, _Queue]]] = {}
        for inode, queue in self._queues.items():
            groups.setdefault(queue.last.at, []).append((inode, queue))
        return groups

    # at the end

    def counters(self) -> dict[str, int | None]:
        """How far TCP's counters of this network namespace moved since the watching began."""
        return deltas(self._counters_before, self._counters())

    def _counters(self) -> dict[str, int]:
        try:
            return read_counters(self._pid)
        except OSError:
            return {}

    def listeners(self) -> tuple[ListenerFigures, ...]:
        """One for each listening address, over the whole run."""
        if "accept_queue" in self._torn or self._live("accept_queue") is None:
            return self._sampled.figures()
        return tuple(self._figures(at, group) for at, group in self._groups().items())

    def _figures(self, at: Endpoint, group: list[tuple[int, _Queue]]) -> ListenerFigures:
        live = self._live("accept_queue")
        lost = self._lost.get("accept_queue", {})
        bounds = sorted({queue.last.capacity - 1 for _, queue in group})
        drops = sum(queue.last.overflows for _, queue in group)
        counters = self.counters()
        overflows = reconcile_overflows(
            drops, self._others_drops(), counters["ListenOverflows"], counters["ListenDrops"]
        )
        return ListenerFigures(
            address=str(at),
            depth_max=max(queue.depth_max for _, queue in group),
            capacity=sum(queue.last.capacity for _, queue in group),
            overflows=overflows.high,
            wait_ms=self._wait(at),
            source=f"eBPF: {live.rung}" if live else "",
            complete=not lost and overflows.exact,
            reason="; ".join([overflows.text] * (not overflows.exact) + [f"not counted: {lost}"] * bool(lost))
            or None,
            depth=sum(queue.last.depth for _, queue in group),
            capacity_from="; ".join(capacity_from(bound, self._somaxconn) for bound in bounds),
            sockets=tuple(
                ListenSocketFigures(
                    inode=inode,
                    depth=None if queue.last.closed else queue.last.depth,
                    depth_max=queue.depth_max,
                    capacity=queue.last.capacity,
                    overflows=queue.last.overflows,
                    gone=queue.last.closed,
                )
                for inode, queue in group
            ),
        )

    def _others_drops(self) -> int:
        return sum(
            (drops - self._drops_before[key]) % _WRAP
            for key, drops in self._drops.items()
            if key[0] not in self._inodes
        )

    def _wait(self, at: Endpoint) -> Distribution | None:
        rows = [wait for wait in self._waits.values() if wait.at == at]
        if not rows:
            return None
        counts = list(map(sum, zip(*(row.waits for row in rows), strict=True)))
        return distribution(counts, sum(row.total_us for row in rows), self._longest_us.get(at, 0))

    def probes(self) -> tuple[ProbeUse, ...]:
        """Which rung answered each question, and why not a better one."""
        if self._loaded is None:
            why, fix = SWITCHED_OFF, "leave --no-bpf out"
            return (
                ProbeUse(name="accept_queue", source="sock_diag, once a second", reason=why, fix=fix),
                ProbeUse(name="accept_wait", source=None, reason=why, fix=fix),
            )
        return tuple(self._use(name, probe) for name, probe in self._loaded.probes.items())

    def _use(self, name: str, probe: Live | Unavailable) -> ProbeUse:
        below = "sock_diag, once a second" if name == "accept_queue" else None
        if isinstance(probe, Unavailable):
            return ProbeUse(name=name, source=below, reason=probe.reason, fix=probe.fix)
        if name in self._torn:
            return ProbeUse(name=name, source=below, reason=self._torn[name])
        refused = "; ".join(f"{one.rung}: {one.reason}" for one in probe.refused)
        return ProbeUse(
            name=name,
            source=f"eBPF: {probe.rung}",
            reason=refused or None,
            kernel_memory_bytes=probe.memory_bytes if probe.maps else None,
            lost=self._lost.get(name, {}),
        )

    def _live(self, name: str) -> Live | None:
        probe = self._loaded[name] if self._loaded is not None else None
        return probe if isinstance(probe, Live) else None


def _sampled(figures: ListenerFigures) -> QueueSample:
    sockets = [each for each in figures.sockets if not each.gone]
    fullest = max(sockets, key=lambda each: (each.depth or 0) / max(1, each.capacity or 1), default=None)
    return QueueSample(
        address=figures.address,
        sockets=len(sockets),
        depth=figures.depth,
        depth_max=fullest.depth if fullest else None,
        capacity_each=fullest.capacity if fullest else None,
        overflows=figures.overflows,
    )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
