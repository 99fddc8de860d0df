"""How long a reading of a heap that never is twice the same may take."""

import pytest

from connprobe.model import Ceiling
from connprobe.observe.runtimes import Runtime
from connprobe.observe.runtimes.interface import HeapReading
from connprobe.session import heap as module
from connprobe.session.heap import Heap


class Growing:
    """Each collection finds more: `asked` times so far."""

    name = "growing"
    asked = 0

    def heap(self) -> HeapReading:
        self.asked += 1
        return HeapReading(1000 * 2**self.asked, None, None)

    def ceilings(self) -> list[Ceiling]:
        return []

    def unread(self) -> str | None:
        return None

    def close(self) -> None:
        """Nothing is open."""


def collections(*, hurry: bool = False) -> int:
    growing = Growing()
    heap = Heap(None, inspect=False, limit_bytes=None, hurry=lambda: hurry)
    runtime: Runtime = growing
    heap._runtime = runtime
    assert heap.read() == {"heap_bytes": 1000.0 * 2**growing.asked}
    return growing.asked


def test_it_is_collected_some_times_at_most() -> None:
    assert collections() == module.MOST_COLLECTIONS


def test_an_interruption_is_not_kept_waiting_for_one_more_collection() -> None:
    assert collections(hurry=True) == 1


def test_all_collections_have_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_S", 0.0)
    assert collections() == 1
