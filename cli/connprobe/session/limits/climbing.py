"""Driving the server of a run: raising its connections step by step, seeing what breaks, resting between."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from connprobe.engine import counters
from connprobe.model import Limit, Phase
from connprobe.plan.limits.ramp import is_near, next_goal, shares
from connprobe.plan.limits.verify import End
from connprobe.session.heap import Heap
from connprobe.session.hold import HOPELESS
from connprobe.session.limits.climb import FEWEST_BAD, TOLERATED, Climb, slow
from connprobe.session.limits.taken import SOON_S, Taken

# After something broke: until the server is dead, or no more is lost; longer while some are under way, and
# where most are lost: a process gives its memory back before its parent hears of its end.
AFTERMATH_S, CALM_S, UNCERTAIN_S, DYING_S = 10.0, 0.5, 2.0, 5.0
# A small step is spread over so long: a crowd breaks servers that could take one after another. And over so
# much longer that the server works no more than a share of the time: V8 ends a process that collects for most
# of it, however much is free.
PACE_S, PACE_MOST_S, WORKING = 0.5, 5.0, 0.25
QUIET_CPU, REST_S, REST_MOST_S = 0.5, 0.4, 3.0  # a rest between the steps near the end
# Its descriptors and the connections of others are read one after the other; others come and go meanwhile.
# Less than the second after which a SYN-ACK is sent again: that may bring in what the queue had no room for.
CONFIRM_S = 0.3
TOLERATED_AT_REST = 2  # connections that may be lost while nothing happens, before it is the end


class Over(Exception):
    """The trial cannot go on. reason: None: it was interrupted."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


class Lost(Over):
    """The server let connections go while nothing happened to them."""


class Climbed(NamedTuple):
    """How a step ended, where the server could take no more, and how long it took."""

    end: End | None
    took_s: float


class Climbing(Taken):
    """A hold whose connections are raised to one goal after another, on a server that is read as it goes."""

    heap: Heap

    def _begin_climbing(self, workers: int) -> None:
        self._begin_taking()
        self._goals = [0] * workers  # in all
        self._sound = counters.Totals()  # at the end of the last step that the server took
        self._listening: tuple[int, ...] = ()  # the processes that hold the listener, at the start

    def _find_again(self) -> Sequence[int]:
        return self.server.pids() if self.server is not None else self._listeners_pids()

    def _climb(self, goal: int, phase: Phase, pace_s: float = 0.0) -> Climbed:
        """Up to `goal` connections begun, in `pace_s` or more; how it ended where it could take no more."""
        before, began = self._read_totals(), time.monotonic()
        handshakes = counters.read_handshakes(self.fleet.table)
        climb = self._climbing = Climb(goal, before)
        self._open_up_to(goal, pace_s)
        self._watch(phase, lambda totals: self._is_gone() or self._hopeless(totals) or climb.over(totals))
        took_s = time.monotonic() - began
        self._stop_if_interrupted()
        waiting = 0
        if climb.failing or climb.stalled or self._gone:
            self._wait_for_aftermath(phase)
        else:
            waiting = self._wait_for_accepts(phase)
            climb.over(self._read_totals())
            if climb.failing:  # it began to die meanwhile
                self._wait_for_aftermath(phase)
        self._stop_if_interrupted()
        if self._gone:
            return Climbed(self._death(climb, phase), took_s)
        totals = self._read_totals()
        if climb.failing or climb.stalled or waiting:
            end = climb.end(totals, self._taken(), waiting or self._unaccepted(totals))
            return Climbed(end._replace(cause=self._another_took_its_place() or end.cause), took_s)
        has = 0

        def has_all(now: counters.Totals) -> bool:
            nonlocal has
            has = max(has, self._taken())
            return has >= now.held - max(FEWEST_BAD, TOLERATED * now.held)

        if not has_all(totals):
            self._watch(phase, has_all, time.monotonic() + CONFIRM_S)
            self._stop_if_interrupted()
        totals = self._read_totals()
        if not has_all(totals):
            cause = (
                f"its accept queue overflowed: it has {has:,} of the {totals.held:,} connections that were "
                "established (a longer backlog, or --rate)"
            )
            return Climbed(End(has, cause, {}, {}), took_s)
        self._sound = totals
        if phase != "verify":
            return Climbed(None, took_s)
        late = slow(handshakes, counters.read_handshakes(self.fleet.table), self.asked.latency_limit_ms)
        if late is not None:
            cause = (
                f"99 % of handshakes took up to {late:,.0f} ms, past --latency-limit "
                f"{self.asked.latency_limit_ms:,.0f}ms"
            )
            return Climbed(End(totals.held, cause, {}, {}), took_s)
        return Climbed(None, took_s)

    def _climb_on(self, first: Limit | None) -> End:
        """Until it breaks. Near the end that `first` predicts in small steps, with a rest after each."""
        end, pace_s = None, PACE_S
        best, since = -1, Climb(0, self._read_totals())
        while end is None:
            alive, begun, totals = self._taken(), self._begun(), self._read_totals()
            if alive > best:
                best, since = alive, Climb(begun, totals)
            elif since.lost(totals) > FEWEST_BAD:  # in steps of one connection, none loses as many
                return since.end(totals, alive, 0)
            if begun >= self.plan.count:
                most = "as many as --verify-up-to allows"
                if not self.asked.verify_up_to:
                    most = f"{begun / self.request.count:.3g} times the count; --verify-up-to asks for more"
                return End(alive, f"{alive:,} were held, {most}", {}, {}, reached=True)
            goal = next_goal(begun, first, self.plan.count)
            near, before = is_near(begun, first), self._meter.quick()
            end = self._climb(goal, "verify", pace_s if near else 0.0).end
            after = self._meter.quick()
            if near and before is not None and after is not None:
                pace_s = min(PACE_MOST_S, max(PACE_S, (after[1] - before[1]) / WORKING))
            if end is None and is_near(goal, first):
                end = self._rest(first)
        return end

    def _another_took_its_place(self) -> str | None:
        """A server that is started again at once is never gone, but its connections are."""
        now = self._listeners_pids()
        if not now or not self._listening or set(now) & set(self._listening):
            return None
        ended, new = (", ".join(map(str, pids)) for pids in (self._listening, now))
        return f"the server died: process {ended} is gone, and {new} took its place"

    def _check_losses(self, doing: str) -> None:
        """Connections that go while nothing happens to them make every reading one of fewer. Raises Lost."""
        totals = self._read_totals()
        lost, had = totals.dropped - self._sound.dropped, totals.held + totals.dropped - self._sound.dropped
        if lost > max(FEWEST_BAD, TOLERATED * had):
            raise Lost(
                f"it closed {lost:,} of {had:,} connections while {doing}: raise its idle timeout, "
                "or make the waits shorter (--for)"
            )

    def _open_up_to(self, goal: int, pace_s: float) -> None:
        before = self._goals
        self._goals = shares(goal, [shard.count for shard in self.plan.shards], before)
        for index, (share, had) in enumerate(zip(self._goals, before, strict=True)):
            interval_s = pace_s / max(1, share - had)
            self.fleet.tell(index, "goal", share, interval_s, interval_s * index / len(self._goals))

    def _wait_for_aftermath(self, phase: Phase) -> None:
        """A process that is killed closes its connections before it is gone, and there may be thousands."""
        lost, since = -1, time.monotonic()

        def over(totals: counters.Totals) -> bool:
            nonlocal lost, since
            now, seen = time.monotonic(), totals.failed + totals.dropped
            if seen != lost:
                lost, since = seen, now
            calm_s = UNCERTAIN_S if totals.in_flight else CALM_S
            if 2 * totals.held < self._sound.held:
                calm_s = DYING_S
            return self._is_gone() or now - since >= calm_s

        self._watch(phase, over, time.monotonic() + AFTERMATH_S)

    def _death(self, climb: Climb, phase: Phase) -> End:
        ending, status, words = "its processes are gone", None, ""
        if self.server is not None:
            server, until = self.server, time.monotonic() + SOON_S
            self._watch(phase, lambda totals: not server.pids() and server.status is not None, until)
            ending, status, words = self.server.ending(), self.server.status, self.server.tail()
        return climb.died(self._read_totals(), ending, status, words)

    def _rest(self, first: Limit | None) -> End | None:
        """Until the CPU is quiet: memory that is never left in peace breaks earlier than it has to.

        A heap that is about to end is collected, as on the plateaus. A burst leaves V8 with a young
        generation larger than what is free: then it collects without a pause, and ends the process for it.
        """
        before = Climb(self._begun(), self._sound)
        until, since, last = time.monotonic() + REST_MOST_S, time.monotonic(), self._meter.quick()

        def rested(totals: counters.Totals) -> bool:
            nonlocal since, last
            now = time.monotonic()
            if self._is_gone() or (use := self._use) is None or last is None:
                return True
            if now - since < REST_S:
                return False
            share = (use[1] - last[1]) / (now - since)
            since, last = now, use
            return share < QUIET_CPU

        self._watch("verify", rested, until)
        if lost := self._read_totals().dropped > before.before.dropped + TOLERATED_AT_REST:
            self._wait_for_aftermath("verify")
        self._stop_if_interrupted()
        if self._is_gone():
            return self._death(before, "verify")
        if lost:
            return before.end(self._read_totals(), self._taken(), 0)
        use = self.heap.read() if first is not None and first.resource == "heap" else {}
        reading = self._meter.reading("verify", self._taken(), self._at_s(), False)
        self.readings.append(replace(reading, use={**reading.use, **use}))
        return None

    # what is asked while waiting

    def _go(
        self, phase: Phase, over: Callable[[counters.Totals], bool], deadline: float = float("inf")
    ) -> None:
        """Watches until `over`. Raises Over where there is nothing more to wait for."""
        self._watch(phase, lambda totals: self._is_gone() or over(totals), deadline)
        self._stop_if_interrupted()
        if self._gone:
            ending = self.server.ending() if self.server is not None else "its processes are gone"
            raise Over(f"the server died: {ending}")

    def _stop_if_interrupted(self) -> None:
        if self.interrupts.by is not None:
            raise Over(None)
        if self.fleet.lost:
            raise Over(f"a worker of this client was lost: {next(iter(self.fleet.lost.values()))}")

    def _hopeless(self, totals: counters.Totals) -> bool:
        return not totals.established and totals.failed >= HOPELESS

    def _begun(self) -> int:
        totals = self._read_totals()
        return totals.established + totals.failed

    def _at_s(self) -> float:
        return round(time.monotonic() - (self._began or 0.0), 3)
