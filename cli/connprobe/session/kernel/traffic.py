"""What becomes of connections in the kernel: opened, reset, half open, at whose expense, and a census."""

from collections.abc import Callable, Collection, Iterable

from connprobe.kernel import lifecycle, memory_pressure, net_cpu, socket_census, syn_queue
from connprobe.kernel.live import Live
from connprobe.kernel.loader import Loaded, Unavailable
from connprobe.model import (
    CensusFigures,
    CensusGroup,
    KernelCpu,
    LifecycleFigures,
    NetCpuFigures,
    NetworkFigures,
    PressureFigures,
    ProbeUse,
    SynQueueFigures,
)
from connprobe.session.kernel.asked import Asked, R

CLOSED_KEPT = 23  # listeners, told apart after they were closed
SWITCHED_OFF = Unavailable("", "switched off by --no-bpf", "leave --no-bpf out")


class Traffic:
    """Begins when it is made. netns: the inode of the network namespace whose ports are meant."""

    def __init__(self, loaded: Loaded | None, netns: int | None) -> None:
        self._netns = netns
        self._ports: frozenset[int] = frozenset()
        self._synq: dict[int, tuple[syn_queue.SynQueue, int]] = {}  # by inode: the last, and the deepest
        self._lifecycle_now: lifecycle.Reading | None = None
        self._cpu_reader: net_cpu.NetCpu | None = None
        self._cpu_before: net_cpu.NetCpuReading | None = None
        self._served: set[int] = set()  # the server's processes, as they were followed last
        self._ended: list[net_cpu.Usage] = []  # of those that ended since: one sum
        self._census: socket_census.Census | None = None

        def probe(name: str) -> Live | Unavailable:
            return loaded[name] if loaded is not None else SWITCHED_OFF

        def ask(name: str, begin: Callable[[Live], Callable[[], R]], below: str | None) -> Asked[R]:
            return Asked(name, probe(name), begin, below=below)

        snmp = "/proc/net/snmp and netstat, of the whole namespace"
        self._syn = ask("syn_queue", lambda live: syn_queue.SynQueues(live).read, snmp)
        self._life = ask("lifecycle", lambda live: lifecycle.Lifecycle(live).read, snmp)
        self._cpu = ask("net_cpu", self._cpu_begins, "softirq of /proc/stat")
        self._pressure = ask("memory_pressure", lambda live: memory_pressure.MemoryPressures(live).read, None)
        self._all = ask("socket_census", lambda live: socket_census.SocketCensus(live).take, None)

    def _cpu_begins(self, live: Live) -> Callable[[], net_cpu.NetCpuReading]:
        self._cpu_reader = net_cpu.NetCpu(live)
        return self._cpu_reader.read

    def watch(self, pids: Iterable[int], role: net_cpu.Role) -> None:
        """The kernel's CPU time of these processes counts from now on, the machine's from the first call."""
        if self._cpu_reader is None or not self._cpu.serves:
            return
        self._cpu_before = self._cpu_before or self._cpu.read()
        try:
            for pid in pids:
                self._cpu_reader.watch(pid, role)
        except OSError:  # torn away: the next reading says so
            return

    def follow(self, pids: Collection[int]) -> None:
        """The server's processes as they are now. What ended makes room, and stays counted."""
        self._release(self._served.difference(pids))
        self._served = set(pids)
        self.watch(pids, "target")

    def _release(self, ended: Collection[int]) -> None:
        if not ended or self._cpu_reader is None or (reading := self._cpu.read()) is None:
            return
        took = [reading.processes[pid] for pid in ended if pid in reading.processes]
        if took:
            self._ended = [net_cpu.summed([*self._ended, *took])]
        try:
            for pid in ended:
                self._cpu_reader.unwatch(pid)
        except OSError:
            return

    def read(self, ports: Collection[int]) -> tuple[int | None, int | None]:
        """(established on the server's side, half open) of the ports that are meant, now. None: not known."""
        self._ports = frozenset(ports)
        self._lifecycle_now = self._life.read()
        half_open = self._read_syn_queues()
        if not self._ports:  # nothing listens here: the server is on another host
            return None, None
        if self._lifecycle_now is None:
            return None, half_open
        served = [each for each in self._lifecycle() if each.role == "server"]
        known = [each.established for each in served if each.established is not None]
        return (sum(known) if len(known) == len(served) else None), half_open

    def _read_syn_queues(self) -> int | None:
        reading = self._syn.read()
        if reading is None:
            return None
        here = [each for each in reading.listeners if each.at.netns == self._netns]
        mine = [each for each in here if each.at.port in self._ports]
        for queue in mine:
            _, deepest = self._synq.get(queue.inode, (queue, 0))
            self._synq[queue.inode] = (queue, max(deepest, queue.depth_max))
        gone = [inode for inode, (queue, _) in self._synq.items() if queue.closed]
        for inode in gone[:-CLOSED_KEPT]:
            del self._synq[inode]
        return sum(queue.depth for queue in mine)

    def opened(self) -> int | None:
        """Connections that the server's ports had since the watching began, as last read. None: not known."""
        if self._lifecycle_now is None or not self._ports:
            return None
        return sum(each.opened for each in self._lifecycle() if each.role == "server")

    def take_census(self) -> None:
        """Looks at every socket: for a plateau."""
        self._census = self._all.read()

    # at the end

    def figures(self) -> NetworkFigures | None:
        """None: no probe serves."""
        cpu, pressure = self._cpu.read(), self._pressure.read()
        asked = (self._syn, self._life, self._cpu, self._pressure, self._all)
        if not any(each.serves for each in asked):
            return None
        return NetworkFigures(
            syn_queues=tuple(self._syn_queues()) if self._syn.serves else None,
            lifecycle=tuple(self._lifecycle()) if self._lifecycle_now is not None else None,
            cpu=self._cpu_figures(cpu) if cpu is not None else None,
            pressure=_pressure(pressure) if pressure is not None else None,
            census=self._census_figures(),
        )

    def _syn_queues(self) -> Iterable[SynQueueFigures]:
        groups: dict[str, list[tuple[syn_queue.SynQueue, int]]] = {}
        for queue, deepest in self._synq.values():
            groups.setdefault(str(queue.at), []).append((queue, deepest))
        for address, group in groups.items():
            queues = [queue for queue, _ in group]
            yield SynQueueFigures(
                address=address,
                depth_max=max(deepest for _, deepest in group),
                backlog=queues[-1].backlog,
                syncookies=queues[-1].syncookies,
                flooded=any(queue.flooded for queue in queues),
                synack_retransmits=sum(queue.retransmits for queue in queues),
                drops=sum(queue.drops for queue in queues),
            )

    def _lifecycle(self) -> Iterable[LifecycleFigures]:
        reading = self._lifecycle_now
        for each in reading.connections if reading is not None else ():
            if each.at.role == "none" or each.at.netns != self._netns or each.at.port not in self._ports:
                continue
            yield LifecycleFigures(
                role=each.at.role,
                port=each.at.port,
                opened=each.opened,
                closed=each.closed,
                established=each.established,
                failed=each.failed,
                resets_sent=each.resets_sent,
                resets_received=sum(each.resets_received.values()),
                reset_reasons=None if each.reset_reasons is None else dict(each.reset_reasons),
                retransmits=each.retransmits,
            )

    def _cpu_figures(self, reading: net_cpu.NetCpuReading) -> NetCpuFigures:
        of, before = reading.softirqs, self._cpu_before.softirqs if self._cpu_before is not None else None
        served = [*self._ended, *([reading.roles["target"]] if "target" in reading.roles else [])]
        return NetCpuFigures(
            net_rx_s=round(of.net_rx_s - (before.net_rx_s if before else 0.0), 4),
            net_tx_s=round(of.net_tx_s - (before.net_tx_s if before else 0.0), 4),
            target=_usage(net_cpu.summed(served) if served else None),
            client=_usage(reading.roles.get("client")),
        )

    def _census_figures(self) -> CensusFigures | None:
        if self._census is None:
            return None
        return CensusFigures(
            duration_s=round(self._census.duration_s, 4),
            sockets=self._census.sockets,
            groups=tuple(
                CensusGroup(
                    side=each.side,
                    port=each.port,
                    state=each.state,
                    sockets=each.sockets,
                    unaccepted=each.unaccepted,
                    receive_bytes=each.rmem_bytes,
                    send_bytes=each.wmem_queued_bytes,
                    forward_alloc_bytes=each.forward_alloc_bytes,
                )
                for each in self._census.groups
                if each.port in self._ports
            ),
        )

    def probes(self) -> tuple[ProbeUse, ...]:
        asked = (self._syn, self._life, self._cpu, self._pressure, self._all)
        return tuple(each.use() for each in asked)


def _usage(usage: net_cpu.Usage | None) -> KernelCpu | None:
    if usage is None:
        return None
    return KernelCpu(
        calls=usage.calls,
        call_s=None if usage.call_s is None else round(usage.call_s, 4),
        softirq_s=round(usage.softirq_s, 4),
        nested_s=None if usage.nested_s is None else round(usage.nested_s, 4),
    )


def _pressure(reading: memory_pressure.MemoryPressure) -> PressureFigures:
    direct, group = reading.direct_reclaim, reading.cgroup_reclaim
    return PressureFigures(
        refused_send=reading.send.over_limit + reading.send.otherwise,
        refused_receive=reading.receive.over_limit + reading.receive.otherwise,
        oom_kills=reading.oom_kills,
        direct_reclaims=direct.times if direct else None,
        direct_reclaim_s=round(direct.time_s, 4) if direct else None,
        cgroup_reclaims=group.times if group else None,
        cgroup_reclaim_s=round(group.time_s, 4) if group else None,
        drops=reading.drops,
    )
