"""The messaging of a trial: one message on each of its connections, until all have had theirs."""

import time
from collections.abc import Callable

from connprobe.engine.counters import Totals
from connprobe.fleet.fleet import Fleet
from connprobe.model import HoldRequest, LimitRequest
from connprobe.session.trigger import Trigger

LISTENING_S = 5.0  # the longest wait until every connection listens for the server's message


def none_said(asked: LimitRequest, request: HoldRequest) -> str | None:
    """Why no message can go round; None: one can."""
    if asked.message_by == "none":
        return "no messages were asked for"
    if asked.message_by == "client" and request.protocol == "http" and request.http_mode != "keepalive":
        return "a client cannot say more on a response that is still open: --message-by server"
    return None


class Messaging:
    """go: waits until what it is given says so, or a moment of time.monotonic."""

    def __init__(self, fleet: Fleet, go: Callable[[Callable[[Totals], bool], float], None]) -> None:
        self._fleet, self._go = fleet, go
        self._had: set[int] = set()

    def go_round(
        self, message: bytes | None, trigger: Trigger | None, before: Totals, deadline: float
    ) -> None:
        """message: None: the server sends it. trigger: None: nothing has to be asked for that.

        Raises RunFailed where the trigger does.
        """
        began = time.monotonic()
        self._fleet.send("message", message)
        if trigger is None:
            self._go(self._all_had, deadline)
            return
        sent = before.messages_sent  # one that is listened for counts among them
        self._go(lambda now: now.messages_sent - sent >= now.held, began + LISTENING_S)
        with trigger:
            self._go(self._all_had, deadline)
            trigger.answer()

    def hear(self, worker: int) -> None:
        """All connections of this worker have had theirs."""
        self._had.add(worker)

    def _all_had(self, totals: Totals) -> bool:
        return self._had >= set(self._fleet.alive)
