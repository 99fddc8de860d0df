"""Opening more connections until a goal is reached, or until the server shows that it can take no more."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from connprobe import causes
from connprobe.engine.counters import Totals
from connprobe.plan.histogram import percentile
from connprobe.plan.limits.verify import End

TOLERATED: Final = 0.01  # of a step: what may fail in it before it is the end
FEWEST_BAD = 3
STALL_S = 10.0  # connections under way and not one further answered: it stopped accepting
_SAID: Final[Mapping[str, str]] = {
    causes.REFUSED: "it refused connections",
    causes.RESET: "it reset connections",
    causes.EOF: "it closed connections",
    causes.TIMEOUT: "connections timed out",
    causes.REJECTED: "it turned connections away",
    causes.PROTOCOL: "it answered what is no answer",
    causes.TLS: "TLS handshakes failed",
    causes.UNREACHABLE: "it could not be reached any more",
    causes.NO_SOURCE_PORT: "this client ran out of source ports",
    causes.FD_LIMIT: "this client ran out of file descriptors",
    causes.WORKER_LOST: "a worker of this client was lost",
}


class Climb:
    """One step of a ramp: from what the counters say at its beginning up to `goal` connections begun."""

    def __init__(self, goal: int, before: Totals, stall_s: float = STALL_S) -> None:
        self.goal, self.before = goal, before
        self._stall_s = stall_s
        self._tolerated = max(FEWEST_BAD, int(TOLERATED * (goal - before.established - before.failed)))
        self._moved, self._since = before.established + before.failed, time.monotonic()
        self.stalled = self.failing = False
        self.unaccepted = 0  # in its accept queue, when that was last seen with any
        self._most = before.held

    def over(self, now: Totals) -> bool:
        """All are there; or too many failed; or nothing moved for too long."""
        self._most = max(self._most, now.held)
        done, at = now.established + now.failed, time.monotonic()
        if done != self._moved or not now.in_flight:
            self._moved, self._since = done, at
        self.failing = self.lost(now) > self._tolerated
        self.stalled = at - self._since > self._stall_s
        return self.failing or self.stalled or done >= self.goal

    def lost(self, now: Totals) -> int:
        """Connections that failed or were lost since its beginning."""
        return now.failed + now.dropped - self.before.failed - self.before.dropped

    def end(self, now: Totals, alive: int, waiting: int) -> End:
        """What broke. alive: connections that the server has now; waiting: those it has not accepted.

        A server that lost more than half of them had them all, until then.
        """
        failures = _grown(self.before.failures, now.failures)
        drops = _grown(self.before.drops, now.drops)
        collapsed = 2 * alive < self.before.held
        return End(
            self._most if collapsed else alive,
            said(failures, drops, 0 if collapsed else waiting, self._stall_s),
            failures,
            drops,
        )

    def died(self, now: Totals, ending: str, status: int | None, last_words: str) -> End:
        """The server is gone: all that it had taken were alive until then.

        Its connections may have gone some seconds before its process did.
        """
        failures = _grown(self.before.failures, now.failures)
        alive = max(now.held, now.established - self.before.dropped - self.unaccepted)
        return End(alive, f"the server died: {ending}", failures, {}, True, status, last_words)


def said(failures: Mapping[str, int], drops: Mapping[str, int], waiting: int, stall_s: float) -> str:
    """The most frequent of what happened to connections, in words."""
    both = {cause: failures.get(cause, 0) + drops.get(cause, 0) for cause in {*failures, *drops}}
    if waiting:
        return f"it stopped accepting: {waiting:,} connections wait in its accept queue"
    if not any(both.values()):
        return f"it stopped answering: connections were under way for {stall_s:.0f} s without an answer"
    cause = max(both, key=lambda each: (both[each], each))
    return f"{_SAID.get(cause, cause)} ({both[cause]:,}, {cause})"


def slow(before: Sequence[int], after: Sequence[int], most_ms: float | None) -> float | None:
    """The 99th percentile of the handshakes in between, in ms, if it is above `most_ms`."""
    if most_ms is None:
        return None
    found = percentile([now - then for then, now in zip(before, after, strict=True)], 0.99)
    return found / 1000 if found is not None and found / 1000 > most_ms else None


def _grown(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {cause: more for cause, count in now.items() if (more := count - before.get(cause, 0)) > 0}
