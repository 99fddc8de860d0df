"""Node: the live heap of V8 after a full collection, and the size of old generation at which it gives up."""

from typing import Final, Protocol

from connprobe.model import Ceiling
from connprobe.observe.runtimes.interface import HeapReading, HeapUnknown
from connprobe.observe.runtimes.listening import listening
from connprobe.observe.runtimes.v8 import EARLY_SHARE, KEPT_FREE, SEMI_SPACES, Heap, MiB


class Ask(Protocol):
    """The heaps of the server's Node processes, by pid. Raises HeapUnknown."""

    def __call__(self, *, collect: bool) -> dict[int, Heap]: ...


ENDED: Final = "no Node process of the server answers any more"


class Node:
    """The heap that is fullest, of those of a server's Node processes: each has a limit of its own."""

    def __init__(self, ask: Ask) -> None:
        """Raises HeapUnknown where no process answers."""
        self._ask = ask
        self._heaps = ask(collect=False)
        if not self._heaps:
            raise HeapUnknown(ENDED)
        self._listening = listening(self._heaps) if len(self._heaps) > 1 else set()
        self.name = self._fullest()[1].name

    def heap(self) -> HeapReading:
        heaps = self._ask(collect=True)
        if not heaps:
            raise HeapUnknown(ENDED)
        self._heaps = heaps
        _, heap, _ = self._fullest()
        capacity = heap.capacity_bytes
        return HeapReading(heap.live_bytes, capacity, int(EARLY_SHARE * capacity))

    def ceilings(self) -> list[Ceiling]:
        """Of the heap that was fullest when it was asked last."""
        pid, heap, many = self._fullest()
        capacity = heap.capacity_bytes
        young = (heap.limit - capacity) // SEMI_SPACES // MiB
        notes = [
            f"{KEPT_FREE / MiB:.1f} MB of it are kept free, to empty the young generation into",
            f"under unceasing load V8 may give up from {EARLY_SHARE:.0%} of it on, and with little garbage "
            f"{young} MB more fit into its young generation",
        ]
        if many > 1:
            notes.insert(0, f"of each of {many} processes: it is reached when the fullest of them is full")
        flag = f"--max-old-space-size={2 * max(capacity // MiB, 1)}"
        return [
            Ceiling(
                resource="heap",
                scope=f"server (pid {pid})",
                capacity=capacity,
                kept_free=KEPT_FREE,
                source="v8.getHeapStatistics(), less the young generation",
                fix=f"node {flag}, or NODE_OPTIONS={flag}, where memory allows",
                metric="heap_bytes",
                unit="bytes",
                exact=False,
                note="; ".join(notes),
            )
        ]

    def close(self) -> None:
        """Nothing stays open between readings."""

    def _fullest(self) -> tuple[int, Heap, int]:
        """Its pid, and of how many it is the fullest.

        The primary of a cluster hands out connections and holds none; what only starts and watches the server
        (nodemon) does not listen.
        """
        workers = {pid for pid, heap in self._heaps.items() if heap.worker}
        chosen = workers or (self._listening & self._heaps.keys()) or self._heaps.keys()
        working = {pid: self._heaps[pid] for pid in chosen}
        pid = max(working, key=lambda each: working[each].live_bytes / working[each].capacity_bytes)
        return pid, working[pid], len(working)
