"""How many connections a worker is to open, and when the next may begin."""

from connprobe.engine import counters
from connprobe.engine.stock import Stock
from connprobe.engine.task import Task
from connprobe.plan.stock import TICKET

BURST_S = 0.1  # what a rate may catch up after a stall


class Goal:
    """Of one worker: its share of what was asked for, and what it takes of the stock.

    number: all of these; the worker's row of counters tells it. to_open: those that have not begun.
    interval_s: between two that begin, by the rate; 0: there is none. next_at: when the next may begin, by
    the caller's clock. A worker that begins them one by one counts in to_open and next_at itself.
    """

    def __init__(self, task: Task, row: memoryview, now: float) -> None:
        self._task, self._row = task, row
        self.to_open = self.number = row[counters.GOAL] = task.goal
        self.stock = Stock(task.stock)
        self.interval_s, self.next_at = task.interval_s, now + task.delay_s

    def __bool__(self) -> bool:
        """Whether there may be more to open."""
        return bool(self.to_open or self.stock)

    def due(self, most: int, now: float) -> int:
        """How many begin now; `most` at most."""
        # Also without room for any: whether it is done it must know.
        while self.to_open < max(1, most) and self.stock:
            self._take_more()
        most = min(most, self.to_open)
        due = 0 if self.interval_s or self.next_at > now else most
        while self.interval_s and due < most and self.next_at <= now:
            self.next_at = max(self.next_at, now - BURST_S) + self.interval_s
            due += 1
        self.to_open -= due
        return due

    def raise_to(self, number: int, now: float, interval_s: float = 0.0, delay_s: float = 0.0) -> None:
        """interval_s: between two that begin, if that is slower than the rate that was asked for."""
        self.to_open += number - self.number
        self.number = self._row[counters.GOAL] = number
        self.interval_s = max(self._task.interval_s, interval_s)
        self.next_at = now + delay_s if interval_s else min(self.next_at, now + self.interval_s)

    def stop(self) -> None:
        """None begins any more."""
        self.to_open = 0
        self.stock.leave()

    def is_reached(self, settled: int) -> bool:
        """Nothing is still to come. settled: those that were established or have failed."""
        return not self.stock and settled >= self.number

    def _take_more(self) -> None:
        if self.number + TICKET > self._task.share:
            self.stock.leave()
        more = self.stock.take()
        self.number += more
        self._row[counters.GOAL] = self.number
        self.to_open += more
