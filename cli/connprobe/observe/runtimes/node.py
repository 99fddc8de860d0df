"""Node: the live heap of V8 after a full collection, and the size of old generation at which it gives up."""

from collections.abc import Callable
from typing import Final

from connprobe.model import Ceiling
from connprobe.observe.runtimes.interface import HeapReading, HeapUnknown
from connprobe.observe.runtimes.v8 import EARLY_SHARE, Heap, MiB

# With a collection or without one: the heaps of the server's Node processes, by pid. Raises HeapUnknown.
Ask = Callable[[bool], dict[int, Heap]]

ENDED: Final = "no Node process of the server answers any more"


class Node:
    """The heap that is fullest, of those of a server's Node processes: each has a limit of its own."""

    def __init__(self, ask: Ask, close: Callable[[], None] = lambda: None) -> None:
        """Raises HeapUnknown where no process answers."""
        self._ask = ask
        self._close = close
        self.name = self._fullest(collect=False)[1].name

    def heap(self) -> HeapReading:
        _, heap, _ = self._fullest(collect=True)
        capacity = heap.capacity_bytes
        return HeapReading(heap.live_bytes, capacity, int(EARLY_SHARE * capacity))

    def ceilings(self) -> list[Ceiling]:
        pid, heap, many = self._fullest(collect=False)
        capacity = heap.capacity_bytes
        notes = [
            f"under unceasing load V8 may give up from {EARLY_SHARE:.0%} of it on (ineffective mark-compacts)"
        ]
        if many > 1:
            notes.insert(0, f"of each of {many} processes: it is reached when the fullest of them is full")
        flag = f"--max-old-space-size={2 * max(capacity // MiB, 1)}"
        return [
            Ceiling(
                resource="heap",
                scope=f"server (pid {pid})",
                capacity=capacity,
                source="v8.getHeapStatistics(), less the young generation",
                fix=f"node {flag}, or NODE_OPTIONS={flag}, where memory allows",
                metric="heap_bytes",
                unit="bytes",
                exact=False,
                note="; ".join(notes),
            )
        ]

    def close(self) -> None:
        self._close()

    def _fullest(self, *, collect: bool) -> tuple[int, Heap, int]:
        """Its pid, and of how many it is the fullest. The primary of a cluster only hands out connections."""
        heaps = self._ask(collect)
        working = {pid: heap for pid, heap in heaps.items() if heap.worker} or heaps
        if not working:
            raise HeapUnknown(ENDED)
        pid = max(working, key=lambda each: working[each].live_bytes / working[each].capacity_bytes)
        return pid, working[pid], len(working)
