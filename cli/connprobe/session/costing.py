"""The limits of a hold: readings of the server on the ramp, which they must not slow, and on the plateau."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from connprobe.model import Ceiling, Growth, HostFacts, Limit, Phase, Reading
from connprobe.observe.ceilings import server_ceilings
from connprobe.observe.reading import ServerMeter
from connprobe.plan.limits.headline import headline
from connprobe.plan.limits.limits import left_out, limits
from connprobe.plan.limits.resources import NAMES
from connprobe.plan.limits.unsettled import Held, Use, of_hold

SHARE = 0.02  # of a CPU, for looks
APART_S = 1.0  # between looks once the server has taken all connections
LOOKS = 8  # at the ramp, about; twice as many are kept at most
PLATEAU = 240
HEAPS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("node", "nodejs"), "V8"),
    "java": "the JVM",
}
DEEPER = "connprobe limit"


class Costed(NamedTuple):
    """unknown: by path, what is no limit here, and why."""

    limits: tuple[Limit, ...] = ()
    headline: str | None = None
    growth: tuple[Growth, ...] = ()
    unknown: Mapping[str, str] = {}


class Costing:
    """Begins when it is made, before the first connection. `look` often; `settle` at the end of the plateau.

    pids: of the server. ends: 2 where both ends of a connection are on this host. count: connections to come.
    """

    def __init__(self, pids: Sequence[int], *, ends: Literal[1, 2], count: int) -> None:
        self._meter, self._ends = ServerMeter(pids, ends=ends), ends
        self._began = time.monotonic()
        self._start = self._meter.reading("start", 0, 0.0, True)
        self._idle: Reading | None = None
        self._grain = max(1.0, count / LOOKS)
        self._looks: list[Use] = []
        self._plateau: deque[tuple[float, float]] = deque(maxlen=PLATEAU)  # when, RSS
        self._fds = self._kept_fds = self._start.use.get("fds", 0.0)
        self._due = 0.0
        self._unknown: dict[str, str] = {}

    def look(self, phase: Phase) -> None:
        """In the ramp and on the plateau, as often as SHARE of the time allows."""
        began = time.monotonic()
        if began < self._due or phase not in ("ramp", "hold"):
            return
        before = time.process_time()
        use = self._meter.glance()
        took = time.process_time() - before
        fds = use.get("fds", self._fds)
        quiet = phase == "hold" and fds == self._fds
        self._due = began + max(took / SHARE, APART_S if quiet else 0.0)
        self._fds = fds
        if quiet and "rss_bytes" in use:
            self._plateau.append((began, use["rss_bytes"]))
        elif fds - self._kept_fds >= self._grain:
            self._kept_fds = fds
            self._looks.append(use)
            if len(self._looks) > 2 * LOOKS:  # a connection takes more than one descriptor
                self._looks, self._grain = self._looks[1::2], 2 * self._grain

    def settle(self, connections: int) -> None:
        """connections: that the server has now; none may be under way."""
        if not connections:
            return
        at_s = time.monotonic() - self._began
        idle = self._meter.reading("idle", connections, at_s, False)
        if "kernel_bytes" not in idle.use:
            self._unknown["limits.memory"] = self._meter.unknown["kernel_bytes"]
        self._idle = idle

    def costed(
        self,
        held: int,
        facts: HostFacts,
        client: Sequence[Ceiling],
        *,
        ports: Sequence[int],
        between_requests: bool,
        same_host: bool,
        ended: bool,
    ) -> Costed:
        """To be asked once, while the connections are open. client: what would stop the client itself.

        ended: as in server_ceilings.
        """
        if self._meter.quick() is None:
            return bare(held, client, self._meter.group.reason or "the server's processes are gone")
        idle = self._idle
        if idle is None or not idle.connections or "rss_bytes" not in idle.use:
            why = "what a connection costs is read at the end of the hold, which was not reached with any"
            found = Held({}, {}, {"ramp": why})
        else:
            half = (idle.at_s + self._began + self._first_quiet()) / 2
            plateau = [rss for at, rss in self._plateau if at >= half]
            found = of_hold(self._start, self._looks, idle, plateau, ends=self._ends)
        ceilings = server_ceilings(
            self._meter,
            facts,
            ports=ports,
            between_requests=between_requests,
            same_host=same_host,
            ended=ended,
        )
        return table(
            (*ceilings.found, *client),
            found,
            held,
            at=idle.connections if idle is not None else 0,
            unknown={f"limits.{it}": why for it, why in ceilings.unknown.items()} | self._unknown,
            heap=heap_of(self._meter.pids),
        )

    def _first_quiet(self) -> float:
        return self._plateau[0][0] if self._plateau else self._began


def table(
    ceilings: Sequence[Ceiling],
    found: Held,
    held: int,
    *,
    at: int,
    unknown: Mapping[str, str],
    heap: str | None,
) -> Costed:
    """What is known of each ceiling. heap: a program of the server's whose heap may end first, unread."""
    said = dict(unknown)
    why = "; ".join(found.unknown.values())
    unread = []
    for each in left_out(ceilings, found.growth, held, at=at):
        resource = each.resource
        if each.metric is not None and each.metric not in found.growth:
            if found.growth:
                reason = f"these readings do not tell what a connection takes: {DEEPER} can"
                said.setdefault(f"limits.{resource}", why or reason)
            unread.append(NAMES.get(resource, resource))
    if heap is not None:
        said["limits.heap"] = f"{HEAPS[heap]} is asked for its heap by {DEEPER} alone"
        unread.append(f"the heap of {HEAPS[heap]} ({DEEPER} reads it)")
    made = limits(ceilings, found.growth, held, at=at, off=found.off)
    if not made or not found.growth:
        said["limits"] = why or "no resource grew with the connections"
    sentence = headline(made, held, unread=", ".join(dict.fromkeys(unread)) or None)
    return Costed(made, sentence, tuple(found.growth.values()), said)


def bare(held: int, client: Sequence[Ceiling], why: str) -> Costed:
    """The limits of the client alone, as the server cannot be read."""
    made = limits(client, {}, held, at=0)
    said = f"of the client alone: the server's cannot be read ({why})"
    return Costed(made, headline(made, held, unread="all of the server"), (), {"limits": said})


def heap_of(pids: Sequence[int]) -> str | None:
    """The program of a process whose heap has a limit of its own (source: /proc/PID/exe)."""
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/exe").readlink().name
        except OSError:
            continue
        if name in HEAPS:
            return name
    return None
