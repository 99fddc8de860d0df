"""All that a server takes at one moment: one reading of each metric that a limit may be set for.

A reading takes some 30 ms, most of it for slabs and page tables: it belongs on a plateau. What is asked
while waiting for one (`quick`) takes a fraction of a millisecond for each process.
"""

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from connprobe.cgroup import Bound, read_limit, tightest
from connprobe.model import KernelFigures, Reading, ServerUse, Stage
from connprobe.observe.cgroupmemory import MemoryBound, taken, tightest_memory
from connprobe.observe.machine import available_memory
from connprobe.observe.process import ProcessGroup
from connprobe.observe.slab import read_kernel_memory
from connprobe.plan.kernelmemory import KernelMemory, kernel_figures

MAPS_BYTES = 64 << 20  # of /proc/PID/maps at most: ten times the default of vm.max_map_count
MAPS_SHARE = 0.01
CONNTRACK = Path("/proc/sys/net/netfilter/nf_conntrack_count")
NO_FDS = "/proc/PID/fd of this kernel does not tell how many are open: Linux 6.2 or later"


class ServerMeter:
    """Reads the processes `pids` and their descendants. Making one is the start that growth counts from.

    find: who the server is now, asked once all of its processes are gone (it made itself a daemon, or was
    restarted). ends: 2 where both ends of a connection are on this host.

    memory, tasks: the cgroups whose limits are nearest, at the start. available_bytes: MemAvailable then.
    server, kernel: of the last reading. unknown: why a metric was not in it. Slabs of which too few are the
    server's sockets (others' went meanwhile) are not in it, and neither is memory_bytes: RSS alone, without
    the kernel's larger half, would put the end of the host's memory far too high.
    """

    def __init__(
        self,
        pids: Sequence[int],
        *,
        find: Callable[[], Sequence[int]] | None = None,
        ends: Literal[1, 2] = 2,
    ) -> None:
        self.unknown: dict[str, str] = {"epoll_watches": "the kernel tells nobody how many a user has"}
        self.server: ServerUse | None = None
        self.kernel: KernelFigures | None = None
        self.memory: MemoryBound | None = None
        self.tasks: Bound | None = None
        self._find, self._ends = find, ends
        self._group = ProcessGroup(pids)
        self._first_fds: dict[int, int] = {}
        self.begin()

    def begin(self) -> None:
        """Growth counts from now."""
        first = self._sample(pss=False)
        self._first_rss_bytes = first.rss_bytes if first is not None else 0
        self._taken_bytes: float | None = 0.0
        self._maps_due = 0.0
        self._had_connections = False
        self._find_cgroups()
        self.available_bytes = available_memory()
        self._slabs_at_start: KernelMemory = read_kernel_memory()

    @property
    def group(self) -> ProcessGroup:
        return self._group

    @property
    def pids(self) -> tuple[int, ...]:
        return self.server.pids if self.server is not None else ()

    def taken_bytes(self) -> float | None:
        """memory_bytes of the last reading."""
        return self._taken_bytes

    def fds_grown(self) -> dict[int, int]:
        """By process, since it was first seen. A process whose descriptors cannot be counted is not in it."""
        return {
            each.pid: each.fds - self._first_fds[each.pid]
            for each in self._group.processes
            if each.fds is not None
        }

    def quick(self) -> tuple[int, float] | None:
        """(RSS in bytes, CPU seconds in all), to tell whether it is flat and quiet. None: it is gone."""
        use = self._sample(pss=False)
        return (use.rss_bytes, use.cpu_s) if use is not None else None

    def reading(self, stage: Stage, connections: int, at_s: float, settled: bool) -> Reading:
        """A reading with `connections` open. Without a process of the server it holds what the host tells."""
        use = self.read(connections)
        server = self.server
        return Reading(
            stage=stage,
            at_s=at_s,
            connections=connections,
            settled=settled,
            use=use,
            cpu_s=server.cpu_s if server is not None else None,
            processes=len(server.pids) if server is not None else None,
        )

    def read(self, connections: int) -> dict[str, float]:
        """Each metric of model.Reading that can be read; `unknown` says why the others could not."""
        use: dict[str, float] = {}
        self.unknown = {"epoll_watches": self.unknown["epoll_watches"]}
        # The host first: looking at processes takes memory itself.
        self._put(use, "kernel_bytes", lambda: self._kernel_bytes(connections))
        self._read_host(use)
        self._group.refresh()
        server = self._sample(pss=True)
        if server is None or not server.complete:
            why = self._group.reason or "the server has no process"
            of_processes = (
                "memory_bytes rss_bytes pss_bytes uss_bytes fds process_fds process_fds_grown threads maps"
            )
            self.unknown.update(dict.fromkeys(of_processes.split(), why))
            return use  # the sum of some processes would be taken for that of all
        self._read_processes(use, server)
        if "kernel_bytes" in use:
            use["memory_bytes"] = server.rss_bytes - self._first_rss_bytes + use["kernel_bytes"]
        else:
            self.unknown["memory_bytes"] = self.unknown["kernel_bytes"]
        self._taken_bytes = use.get("memory_bytes")
        no_pss = self._group.pss_reason or "/proc/PID/smaps_rollup cannot be read"
        self._put(use, "pss_bytes", lambda: server.pss_bytes, no_pss)
        private = [each.uss_bytes for each in self._group.processes if each.uss_bytes is not None]
        complete = len(private) == len(self._group.processes)
        self._put(use, "uss_bytes", lambda: sum(private) if complete else None, no_pss)
        self._read_maps(use)
        return use

    def glance(self) -> dict[str, float]:
        """The metrics that are read in one moment, and so belong together: no slabs and page tables.

        It takes a third of a millisecond for each process, and leaves `unknown` as it was. Mappings are in it
        as often as MAPS_SHARE of the time allows: counting them takes the longer, the more there are.
        """
        use: dict[str, float] = {}
        unknown, self.unknown = self.unknown, {}
        self._read_host(use)
        server = self._sample(pss=False)
        if server is not None and server.complete:
            self._read_processes(use, server)
            if (began := time.monotonic()) >= self._maps_due:
                self._read_maps(use)
                self._maps_due = began + (time.monotonic() - began) / MAPS_SHARE
        self.unknown = unknown
        return use

    def _read_host(self, use: dict[str, float]) -> None:
        """What the host and the server's cgroup count."""
        self._put(use, "files", lambda: int(Path("/proc/sys/fs/file-nr").read_text().split()[0]))
        self._put(use, "host_threads", host_threads)
        self._put(use, "conntrack", lambda: int(CONNTRACK.read_text()), "nothing tracks connections here")
        if self.memory is None:
            self.unknown.setdefault("cgroup_bytes", "no memory limit is set on the server's cgroup")
        else:
            place = self.memory.place
            self._put(use, "cgroup_bytes", lambda: taken(place), f"{place.directory} cannot be read")
        if self.tasks is None:
            self.unknown.setdefault("pids", "no pids limit is set on the server's cgroup")
        else:
            file = self.tasks.place.directory / "pids.current"
            self._put(use, "pids", lambda: read_limit(file), f"{file} cannot be read")

    def _read_processes(self, use: dict[str, float], server: ServerUse) -> None:
        """What one look at all processes told."""
        use["rss_bytes"], use["threads"] = server.rss_bytes, server.threads
        self._put(use, "fds", lambda: server.fds, NO_FDS)
        of_each = {each.pid: each.fds for each in self._group.processes if each.fds is not None}
        self._put(use, "process_fds", lambda: max(of_each.values(), default=None), NO_FDS)
        self._put(use, "process_fds_grown", lambda: max(self.fds_grown().values(), default=None), NO_FDS)

    def _read_maps(self, use: dict[str, float]) -> None:
        largest = max(self._group.processes, key=lambda each: each.rss_bytes).pid
        self._put(use, "maps", lambda: count_maps(largest), "/proc/PID/maps is longer than is read")

    def _put(
        self, use: dict[str, float], metric: str, read: Callable[[], float | None], why: str | None = None
    ) -> None:
        try:
            value = read()
        except (OSError, ValueError, IndexError) as error:
            self.unknown[metric] = why if why and isinstance(error, FileNotFoundError) else str(error)
            return
        if value is None:
            self.unknown[metric] = why or "not told"
        else:
            use[metric] = value

    def _sample(self, *, pss: bool) -> ServerUse | None:
        now = time.monotonic()
        self.server = self._group.sample(now, pss=pss)
        if self.server is None and self._find is not None and (pids := self._find()):
            self._group = ProcessGroup(pids)
            self.server = self._group.sample(now, pss=pss)
        for pid in self._first_fds.keys() - {each.pid for each in self._group.processes}:
            del self._first_fds[pid]  # another process may have that pid next
        for each in self._group.processes:
            if each.fds is not None:
                self._first_fds.setdefault(each.pid, each.fds)
        return self.server

    def _find_cgroups(self) -> None:
        """The nearest limits over all processes: a service may spread them over several cgroups."""
        memory, tasks = [], []
        for pid in self.pids:
            try:
                memory.append(tightest_memory(pid))
                tasks.append(tightest("pids", pid))
            except OSError as error:
                reason = f"/proc/{pid}/cgroup: {error.strerror}"
                self.unknown.update(dict.fromkeys(("cgroup_bytes", "pids"), reason))
        self.memory = min(
            (each for each in memory if each is not None),
            key=lambda bound: bound.capacity_bytes - bound.taken_bytes,
            default=None,
        )
        self.tasks = min(
            (each for each in tasks if each is not None),
            key=lambda bound: bound.limit - bound.used,
            default=None,
        )

    def _kernel_bytes(self, connections: int) -> float:
        """Of the slabs of sockets, what `connections` explain. ValueError: why that cannot be told.

        Without connections that is nothing at the start; once they have gone, what slabs keep of them cannot
        be told from what others took.
        """
        now = read_kernel_memory()
        if connections <= 0:
            unread = now if now.slabs is None else self._slabs_at_start
            if unread.slabs is None:
                raise ValueError(unread.reason or "/proc/slabinfo cannot be read")
            if self._had_connections:
                raise ValueError("there is no connection to reckon it by")
            return 0.0
        self._had_connections = True
        self.kernel = kernel_figures(self._slabs_at_start, now, connections, self._ends)
        if self.kernel is None or not self.kernel.complete:
            raise ValueError((self.kernel and self.kernel.reason) or "the kernel tells no size of its slabs")
        return self.kernel.bytes_per_connection * connections


def host_threads() -> int:
    """All threads that the kernel knows (source: /proc/loadavg). ValueError: it does not tell."""
    found = re.search(r" \d+/(\d+) ", Path("/proc/loadavg").read_text())
    if found is None:
        raise ValueError("/proc/loadavg has no thread count")
    return int(found[1])


def count_maps(pid: int) -> int | None:
    """Mappings of a process (source: lines of /proc/PID/maps). None: more than can be read in bounds."""
    lines = read = 0
    with Path(f"/proc/{pid}/maps").open("rb", buffering=0) as file:
        while chunk := file.read(1 << 16):
            lines, read = lines + chunk.count(b"\n"), read + len(chunk)
            if read > MAPS_BYTES:
                return None
    return lines
