"""The limits of a watch: what a server took beside the connections that somebody else gave it."""

import time
from collections.abc import Sequence

from msgspec.structs import replace

from connprobe.errors import ConnprobeError
from connprobe.model import KernelSample, Reading, ServerUse
from connprobe.observe.ceilings import server_ceilings
from connprobe.observe.reading import ServerMeter
from connprobe.observe.sockdiag import connected
from connprobe.plan.limits.looks import Looks
from connprobe.plan.limits.unsettled import Held
from connprobe.session.costing import Costed, heap_of, table
from connprobe.system.apart import apart
from connprobe.system.facts import read_facts

SHARE = 0.02  # of a CPU, for counting connections without eBPF


class WatchCosting:
    """`look` at each reading, `costed` at the end. foreign: sock_diag shows another network namespace."""

    def __init__(self, *, foreign: bool) -> None:
        self.looks = Looks()
        self._foreign = foreign
        self._meter: ServerMeter | None = None
        self._slab_bytes = self._rss_bytes = 0.0
        self._last: Reading | None = None
        self._due = 0.0

    def look(self, kernel: KernelSample, server: ServerUse | None, ports: Sequence[int], at_s: float) -> None:
        """kernel: read a moment ago."""
        if server is None:
            return
        if self._meter is None or not set(server.pids) & set(self._meter.pids):  # another server by now
            self._meter, self.looks, self._last = ServerMeter(server.pids), Looks(), None
            self._rss_bytes = float(server.rss_bytes)
            self._slab_bytes = float(kernel.slab_bytes or 0)
        connections = self._connections(kernel, ports)
        if connections is None:
            return
        use = self._meter.glance()
        if "rss_bytes" in use and kernel.slab_bytes is not None:
            grown = use["rss_bytes"] - self._rss_bytes + kernel.slab_bytes - self._slab_bytes
            use["memory_bytes"] = grown
        self._last = Reading(stage="ramp", at_s=at_s, connections=connections, settled=False, use=use)
        self.looks.add(self._last)

    def _connections(self, kernel: KernelSample, ports: Sequence[int]) -> int | None:
        """Those that the server has accepted: established, and not in its accept queue."""
        established, now = kernel.established, time.monotonic()
        if established is None:
            if self._foreign or not ports or now < self._due:
                return None
            before = time.process_time()
            try:
                established = connected(ports)
            except OSError:
                return None
            self._due = now + (time.process_time() - before) / SHARE
        return max(0, established - sum(each.depth or 0 for each in kernel.queues))

    def costed(self, ports: Sequence[int]) -> Costed:
        """While the server lives: afterwards its limits cannot be read."""
        meter, last = self._meter, self._last
        if meter is None or meter.quick() is None:
            gone = (
                "no process of a server was watched" if meter is None else "the server's processes are gone"
            )
            return Costed(unknown={"limits": gone})
        try:
            facts = apart(read_facts)
        except ConnprobeError as error:
            return Costed(unknown={"limits": str(error)})
        why = self.looks.too_alike
        found = server_ceilings(meter, facts, ports=ports, same_host=False)
        # The growth of memory counts from our beginning, as this does.
        taken = last.use.get("memory_bytes") if last is not None else None
        ceilings = [
            replace(each, used=taken) if each.metric == "memory_bytes" else each for each in found.found
        ]
        return table(
            ceilings,
            Held(self.looks.growths(), {}, {"looks": why} if why else {}),
            self.looks.most or 0,
            at=last.connections if last is not None else 0,
            unknown={f"limits.{resource}": reason for resource, reason in found.unknown.items()},
            heap=heap_of(meter.pids),
        )
