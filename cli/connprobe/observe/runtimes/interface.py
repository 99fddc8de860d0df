"""What is asked of a managed runtime, whichever it is."""

import time
from typing import NamedTuple, Protocol

from connprobe.model import Ceiling

TIMEOUT_S = 10.0  # for one reading: a collection stops the program, and nobody waits for it without end


class HeapReading(NamedTuple):
    """One heap after a full collection.

    live_bytes: in use, of what counts toward `capacity_bytes`. capacity_bytes: at which the runtime gives
    up; None: it has no limit of its own. early_bytes: from where it may give up under unceasing load; None:
    at its capacity alone.
    """

    live_bytes: int
    capacity_bytes: int | None
    early_bytes: int | None


class HeapUnknown(Exception):
    """The heap could not be read. `reason`: a plain sentence, with the remedy."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Runtime(Protocol):
    """What one or more of a server's processes run on.

    name: "Node 20.20 (V8)". heap: asks for a full collection first, takes `TIMEOUT_S` at most, and raises
    HeapUnknown. ceilings: what the heap that was the fullest at the last reading ends at; asks nobody.
    """

    @property
    def name(self) -> str: ...

    def heap(self) -> HeapReading: ...

    def ceilings(self) -> list[Ceiling]: ...

    def close(self) -> None: ...


class Attached(NamedTuple):
    """reason: why there is no runtime, with the remedy."""

    runtime: Runtime | None
    reason: str | None


def left(until: float) -> float:
    """Seconds until a moment of time.monotonic(), to wait on a socket. TimeoutError: it has passed."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
