"""How many of a run's connections its server has taken, which also has connections of others, perhaps."""

import time

from msgspec.structs import replace

from connprobe.engine import counters
from connprobe.model import LimitRequest, Phase, Reading
from connprobe.observe.listeners import listener_pids, queued
from connprobe.observe.reading import ServerMeter
from connprobe.observe.sockdiag import connected
from connprobe.plan.acceptqueue import Ahead
from connprobe.plan.limits.prediction import growths
from connprobe.session.hold import Hold
from connprobe.session.limits.climb import Climb
from connprobe.session.started import StartedServer

SOON_S = 5.0


class Taken(Hold):
    """A hold on a server that is read as it goes."""

    asked: LimitRequest
    server: StartedServer | None = None  # None: it ran already
    _meter: ServerMeter

    def _begin_taking(self) -> None:
        self.readings: list[Reading] = []
        self._climbing: Climb | None = None
        self._gone = False
        self._use: tuple[int, float] | None = None
        self._fds_of, self._fds = 0, 1
        self._accepted = 0  # so many of ours were established when the last of them was accepted

    def _unaccepted(self, totals: counters.Totals) -> int:
        """Of ours, at most, in the accept queue: what lies there beyond them is others'."""
        waiting = self._waiting()
        return waiting if self.request.answered else min(waiting, totals.established - self._accepted)

    def _taken(self) -> int:
        """Connections that the server has, by what it says too.

        A client's end is established although the server dropped the last packet of the handshake, its
        accept queue being full. Where nothing is answered, only the server's end tells: its descriptors, or,
        where others' come and go among them, the connections at its port. Others' that came hide as many of
        ours that are missing.
        """
        alive = self._alive()
        if self.request.answered:
            return alive
        self._meter.quick()  # the last one may be of a moment at which some were not accepted yet
        server = self._meter.server
        start = next((each.use.get("fds") for each in self.readings if each.stage == "start"), None)
        if start is None or server is None or server.fds is None:
            return alive
        taken = int(server.fds - start) // self._fds_each()
        if taken < alive and (accepted := self._accepted_of_all()) is not None:
            taken = accepted
        return min(alive, max(0, taken))

    def _fds_each(self) -> int:
        """The server's descriptors for one connection, as far as is known: fitted once for each reading."""
        if self._fds_of != len(self.readings):
            fds = [replace(each, use={"fds": each.use["fds"]}) for each in self.readings if "fds" in each.use]
            grown = growths(fds).get("fds")
            self._fds = max(1, round(grown.per_connection)) if grown is not None else 1
            self._fds_of = len(self.readings)
        return self._fds

    def _others(self, ours: int) -> int | None:
        """Connections at the server's port beside `ours`, where it ran already. None: not known."""
        accepted = self._accepted_of_all()
        return None if accepted is None else max(0, accepted - ours)

    def _accepted_of_all(self) -> int | None:
        """Connections at the server's port, ours and others', where it ran already. None: not known."""
        if self.server is not None or not self.kernel.has_listeners or self.target is None:
            return None
        try:
            return connected((self.target.port,), accepted=True)
        except OSError:
            return None

    def _wait_for_accepts(self, phase: Phase) -> int:
        """Connections that lie in the accept queue and are not taken from it; 0: ours were, all of them."""
        if self.request.answered:
            return 0
        established = self._read_totals().established
        if (depths := self._queued()) is None:
            return 0
        ahead, since = Ahead(depths), time.monotonic()

        def over(totals: counters.Totals) -> bool:
            nonlocal since
            if (depths := self._queued()) is not None and ahead.see(depths):
                since = time.monotonic()
            if ahead.left and self._climbing is not None:
                self._climbing.unaccepted = min(ahead.left, totals.established - self._accepted)
            return not ahead.left or self._is_gone() or time.monotonic() - since > SOON_S

        if ahead.left:
            self._watch(phase, over)
        if not ahead.left and not self._gone:
            self._accepted = established
        return ahead.left

    def _queued(self) -> dict[int, int] | None:
        """What lies in the accept queue of each listener. None: the kernel did not tell this time."""
        assert self.target is not None
        try:
            return queued(self.target.scoped_address, self.target.port) if self.kernel.has_listeners else {}
        except OSError:
            return None

    def _listeners_pids(self) -> tuple[int, ...]:
        assert self.target is not None
        return listener_pids(self.target.scoped_address, self.target.port).pids

    def _is_gone(self) -> bool:
        """Its use is in `_use` then: one look at a server of hundreds of processes takes 0.1 s."""
        self._use = self._meter.quick()
        self._gone = self._gone or self._use is None
        return self._gone
