"""Node: the live heap of V8 after a full collection, and the size of old generation at which it gives up."""

import math
from typing import Final, Protocol

from connprobe.model import Ceiling
from connprobe.observe.runtimes.interface import HeapReading, HeapUnknown, Where
from connprobe.observe.runtimes.listening import listening
from connprobe.observe.runtimes.v8 import EARLY_SHARE, KEPT_FREE, SEMI_SPACES, Heap, MiB


class Ask(Protocol):
    """The heaps of the server's Node processes and their worker threads. Raises HeapUnknown."""

    def __call__(self, *, collect: bool) -> dict[Where, Heap]: ...


ENDED: Final = "no Node process of the server answers any more"
GROWN: Final = (0.01, 100 << 10)  # of what was live at first, and bytes: an idle thread's heap varies by less


class Node:
    """The heap that ends first, of those of a server's Node processes and threads: each has its own limit."""

    def __init__(self, ask: Ask) -> None:
        """Raises HeapUnknown where no process answers."""
        self._ask = ask
        self._heaps = ask(collect=False)
        if not self._heaps:
            raise HeapUnknown(ENDED)
        self._first: dict[Where, int] = {}  # live, after a collection
        pids = {where.pid for where in self._heaps}
        self._listening = listening(pids) if len(pids) > 1 else set()
        self.name = self._soonest()[1].name

    def heap(self) -> HeapReading:
        heaps = self._ask(collect=True)
        if not heaps:
            raise HeapUnknown(ENDED)
        self._heaps = heaps
        live = {where: heap.live_bytes for where, heap in heaps.items()}
        self._first = live | self._first
        where, heap, _ = self._soonest()
        capacity = heap.capacity_bytes
        return HeapReading(live[where], capacity, int(EARLY_SHARE * capacity), where, live)

    def ceilings(self) -> list[Ceiling]:
        """Of the heap that was to end first when it was asked last."""
        where, heap, many = self._soonest()
        capacity = heap.capacity_bytes
        young = (heap.limit - capacity) // SEMI_SPACES // MiB
        notes = [
            f"{KEPT_FREE / MiB:.1f} MB of it are kept free, to empty the young generation into",
            f"under unceasing load V8 may give up from {EARLY_SHARE:.0%} of it on, and with little garbage "
            f"{young} MB more fit into its young generation",
        ]
        if many > 1:
            notes.insert(0, f"of each of {many} processes: it is reached when the fullest of them is full")
        if (unread := self.unread()) is not None:
            notes.append(unread)
        flag = f"--max-old-space-size={2 * max(capacity // MiB, 1)}"
        fix = f"node {flag}, or NODE_OPTIONS={flag}, where memory allows"
        if where.thread:
            own = f"{{ maxOldGenerationSizeMb: {2 * capacity // MiB} }}"
            fix = f"resourceLimits: {own} of the Worker, where no flag is given; or {fix}"
        return [
            Ceiling(
                resource="heap",
                scope=f"server ({where})",
                capacity=capacity,
                kept_free=KEPT_FREE,
                source="v8.getHeapStatistics(), less the young generation",
                fix=fix,
                metric="heap_bytes",
                unit="bytes",
                exact=False,
                note="; ".join(notes),
            )
        ]

    def unread(self) -> str | None:
        """Worker threads that did not answer: a preload runs in them unless they are made without it."""
        threads = sum(heap.threads or 0 for heap in self._heaps.values())
        unread = threads - sum(where.thread > 0 for where in self._heaps)
        if unread <= 0:
            return None
        return f"{unread} worker thread{'s' if unread > 1 else ''} did not tell: their heaps are in no figure"

    def close(self) -> None:
        """Nothing stays open between readings."""

    def _soonest(self) -> tuple[Where, Heap, int]:
        """The fullest process, and of how many; or a worker thread that comes to its limit before it.

        The primary of a cluster hands out connections and holds none; what only starts and watches the server
        (nodemon) does not listen.
        """
        processes = {where for where in self._heaps if not where.thread}
        workers = {where for where in processes if self._heaps[where].worker}
        chosen = workers or {where for where in processes if where.pid in self._listening} or processes
        fullest = max(
            chosen, key=lambda each: self._heaps[each].live_bytes / self._heaps[each].capacity_bytes
        )
        threads = self._heaps.keys() - processes
        first = min((fullest, *sorted(threads)), key=self._distance)
        return first, self._heaps[first], 1 if first.thread else len(chosen)

    def _distance(self, where: Where) -> float:
        """From its limit, in what it has grown by so far."""
        heap = self._heaps[where]
        first = self._first.get(where, heap.live_bytes)
        grown = heap.live_bytes - first
        share, least = GROWN
        if grown < max(share * first, least):
            return math.inf
        return (heap.capacity_bytes - heap.live_bytes) / grown
