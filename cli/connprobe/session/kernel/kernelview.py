"""All that a run asks the kernel: probes by eBPF where they serve, sock_diag and /proc below them.

One second's reading costs a few milliseconds, however many connections there are; where waits come from the
queue's order, some microseconds more for each connection that came.
"""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from connprobe.kernel import accept_queue, accept_wait
from connprobe.kernel.live import Live
from connprobe.kernel.loader import Loaded, Unavailable
from connprobe.model import KernelSample, ListenerFigures, NetworkFigures, ProbeUse, QueueSample
from connprobe.observe.acceptqueue import AcceptQueues as SampledQueues
from connprobe.observe.machine import CpuTimes, cpu_times, slab_bytes, utilisation
from connprobe.observe.snmp import deltas, read_counters
from connprobe.observe.sockdiag import ListenSocket, listen_sockets, listen_sockets_from_proc
from connprobe.session.kernel.asked import Asked
from connprobe.session.kernel.order import Order
from connprobe.session.kernel.queues import Queues, with_wait
from connprobe.session.kernel.traffic import SWITCHED_OFF, Traffic
from connprobe.session.kernel.waits import Wait, Waits

Choice = Callable[[Sequence[ListenSocket]], Sequence[ListenSocket]]

_BELOW = "sock_diag, once a second"
_ORDER = "first-in-first-out order, by accept_queue"
_NOTICED = 0.01  # of those taken: where more are unseen, percentiles of the others would mislead
_SHORTEST_S = 0.2  # CPU time is counted in hundredths: over less it is noise
_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


class KernelView:
    """Begins when it is made. The probes stay their owner's, who detaches them afterwards.

    choose: which LISTEN sockets are meant. loaded: None: no eBPF was wanted. pid: one in whose network
    namespace the listeners are, where that is another one than ours, and cannot be entered.
    A further probe is one more `Asked`, and what takes its readings: see `read`.
    """

    def __init__(self, choose: Choice, loaded: Loaded | None, *, pid: int | None = None) -> None:
        self._choose, self._loaded, self._pid = choose, loaded, pid
        somaxconn = _number(_SOMAXCONN) if pid is None else None
        self._netns = _netns(pid)
        self._sampled = SampledQueues(somaxconn)
        self._queues = Queues(somaxconn, self._netns)
        self._waits = Waits()
        self._order = Order()
        self._overwritten = 0  # looks at queues that the order lacks
        self._taken: Mapping[str, int] | None = None  # out of each address' queues, at the reading before
        self._unseen: dict[str, int] = {}  # of these, by no accept that the probe saw
        self._inferred: Set[str] = frozenset()  # addresses whose waits come from the queue's order
        self._missed: Mapping[str, int] = {}  # of these at most, between the attaching of the two probes
        self._listeners: Sequence[ListenSocket] = ()
        self._mine: frozenset[int] = frozenset()
        self._ports: frozenset[int] = frozenset()
        self.has_listeners = False  # some that were meant were seen: the server is in this network namespace
        self._counters_before = self._counters()
        self._cpu, self._cpu_at = cpu_times(), time.monotonic()
        self._listen_sockets = self._source()
        self._looks: accept_queue.Looks | None = None
        self._queue = Asked("accept_queue", self._probe("accept_queue"), self._queue_reader, below=_BELOW)
        self._wait = Asked("accept_wait", self._probe("accept_wait"), _wait_reader, below=None)
        self.traffic = Traffic(loaded, self._netns)
        self.read()

    @property
    def ports(self) -> tuple[int, ...]:
        """Of the listeners that are meant, now."""
        return tuple(sorted(self._ports))

    # every second

    def read(self) -> KernelSample:
        """What happened since the reading before."""
        mine = self._choose(self._listening())
        self._mine = frozenset(entry.inode for entry in mine)
        self._ports = frozenset(entry.port for entry in mine)
        self.has_listeners |= bool(mine)
        self._sampled.sample(mine)
        first = self._taken is None
        if first:  # so that of what left the queues till then too few were seen, rather than too many
            self._read_waits()
        queues = self._queue.read()
        if queues is not None:
            self._queues.take(queues.listeners, self._mine)
            self._order.meet(queues.listeners, self._mine)
        if first:
            self._missed = self._waits.unseen(self._queues.taken())
        else:
            self._read_waits()
        if queues is not None and self._wait.torn is None:
            self._compare()
        established, half_open = self.traffic.read(self._ports)
        shares = self._utilisation()
        return KernelSample(
            queues=tuple(self._queue_samples()),
            slab_bytes=slab_bytes(),
            softirq=None if shares is None else round(shares.softirq, 4),
            established=established,
            half_open=half_open,
            counters={name: moved for name, moved in self.counters().items() if moved},
        )

    def _utilisation(self) -> CpuTimes | None:
        """Since it was told last. None: that is too short a time ago."""
        now = time.monotonic()
        if now - self._cpu_at < _SHORTEST_S:
            return None
        before, self._cpu, self._cpu_at = self._cpu, cpu_times(), now
        return utilisation(before, self._cpu)

    def _read_waits(self) -> None:
        waits = self._wait.read()
        if waits is not None:
            self._waits.take(waits.listeners, self._mine)

    def _compare(self) -> None:
        before, self._taken = self._taken, self._queues.taken()
        if before is None:
            return
        unseen = self._waits.unseen(before)
        self._unseen = {  # a lower bound each time: of all the highest
            at: max(self._unseen.get(at, 0), number - self._missed.get(at, 0))
            for at, number in unseen.items()
        }
        self._inferred = {
            at
            for at, number in self._unseen.items()
            if number > _NOTICED * max(0, before[at] - self._missed.get(at, 0))
        }
        if self._looks is not None and any(self._unseen.values()):
            # Of all: others' may be known as unseen late.
            looks, overwritten = self._looks.read(self._order.wanted)
            self._order.take(looks)
            self._overwritten += overwritten

    def _wait_at(self, address: str) -> Wait | None:
        """By each accept; from the queue's order where too many were not seen."""
        inferred = self._order.at(address) if address in self._inferred else None
        return inferred or self._waits.at(address)

    def _source(self) -> Callable[[], list[ListenSocket]]:
        """One for the whole run: sockets have no cookie in /proc, and would seem to be others."""
        if self._pid is not None:
            return lambda: listen_sockets_from_proc(0, self._pid)
        try:
            listen_sockets()
        except OSError:
            return listen_sockets_from_proc
        return listen_sockets

    def _listening(self) -> Sequence[ListenSocket]:
        with suppress(OSError):  # netlink was too busy, or the process is gone: as it was
            self._listeners = self._listen_sockets()
        return self._listeners

    def _queue_samples(self) -> list[QueueSample]:
        known = self._queues.samples(self._wait_at) if self._queue.serves else []
        return known + [
            with_wait(_sampled(each), self._wait_at(each.address))
            for each in self._unknown_to_probe()
            if each.depth is not None
        ]

    def _unknown_to_probe(self) -> list[ListenerFigures]:
        """Listeners that sock_diag alone shows: all without the probe, else those of another namespace."""
        if not self._queue.serves:
            return list(self._sampled.figures())
        if self._mine <= self._queues.inodes:
            return []
        return [
            each
            for each in self._sampled.figures()
            if each.depth is not None and self._queues.inodes.isdisjoint(one.inode for one in each.sockets)
        ]

    def _queue_reader(self, live: Live) -> Callable[[], accept_queue.Reading]:
        with suppress(OSError):  # the map cannot be mapped: without the order what it tells is not known
            self._looks = accept_queue.Looks(live)
        return accept_queue.AcceptQueues(live).read

    def _probe(self, name: str) -> Live | Unavailable:
        return self._loaded[name] if self._loaded is not None else SWITCHED_OFF

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
        below = tuple(
            replace(each, wait_ms=wait.most, wait_least_ms=wait.least)
            if (wait := self._wait_at(each.address))
            else each
            for each in self._unknown_to_probe()
        )
        if not self._queue.serves:
            return below
        return (
            self._queues.figures(self._wait_at, self.counters(), self._queue.source, self._queue.lost) + below
        )

    def network(self) -> NetworkFigures | None:
        """What became of the connections. None: no eBPF."""
        return self.traffic.figures()

    def probes(self) -> tuple[ProbeUse, ...]:
        """Which rung answered each question, and why not a better one."""
        wait = self._wait.use()
        more = {"looks overwritten": self._overwritten if self._inferred else 0}
        if wait.source is not None or self._wait.torn is not None:
            more["accepted unseen"] = sum(self._unseen.values())
        elif any(self._order.at(address) is not None for address in self._inferred):
            wait = replace(wait, source=_ORDER)
        wait = replace(wait, lost=wait.lost | {cause: number for cause, number in more.items() if number})
        return (self._queue.use(), wait, *self.traffic.probes())


def reasons(listeners: Sequence[ListenerFigures], probes: Sequence[ProbeUse]) -> dict[str, str]:
    """Why a figure of a listener is None, by its path."""
    found = {}
    waits = next(use for use in probes if use.name == "accept_wait")
    unserved = waits.reason if waits.source is None else None
    for index, each in enumerate(listeners):
        if each.wait_ms is None:
            found[f"listeners.{index}.wait_ms"] = unserved or "no accept of its connections was seen"
        if each.depth is None:
            found[f"listeners.{index}.depth"] = "it is closed"
        for name in ("depth_max", "capacity", "overflows"):
            if getattr(each, name) is None:
                found[f"listeners.{index}.{name}"] = each.reason or "not told"
    return found


def _wait_reader(live: Live) -> Callable[[], accept_wait.Reading]:
    return accept_wait.AcceptWaits(live).read


def _sampled(figures: ListenerFigures) -> QueueSample:
    """From the figures of the whole run those of now."""
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


def _netns(pid: int | None) -> int | None:
    try:
        return Path("/proc", "thread-self" if pid is None else str(pid), "ns/net").stat().st_ino
    except OSError:
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
