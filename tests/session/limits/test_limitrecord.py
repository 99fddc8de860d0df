"""What is told of the last trial's server."""

from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from connprobe.model import Reading
from connprobe.session.heap import Heap
from connprobe.session.limits.limitrecord import _runtime
from report.limited import trial


def test_the_heap_that_is_told_is_that_of_the_count_and_not_of_the_end() -> None:
    """A `--verify` reads it on until just before the server dies."""
    heap = Heap(None, inspect=False, limit_bytes=None)
    heap.name, heap.last_bytes, heap.capacity_bytes = "Node 20.1 (V8)", 80_000_000, 83_000_000
    run: Any = SimpleNamespace(heap=heap)
    driven = Reading(
        stage="verify", at_s=60.0, connections=16_000, settled=False, use={"heap_bytes": 80_000_000.0}
    )
    there = trial(1)
    figures = _runtime(run, replace(there, readings=(*there.readings, driven)))
    (idle,) = [each for each in there.readings if each.stage == "idle"]
    assert figures is not None
    assert figures.heap_bytes == int(idle.use["heap_bytes"])
    figures = _runtime(run, replace(there, readings=(driven,)))
    assert figures is not None
    assert figures.heap_bytes == 80_000_000
