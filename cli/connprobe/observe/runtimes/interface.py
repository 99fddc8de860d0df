"""What is asked of a managed runtime, whichever it is."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from connprobe.model import Ceiling

TIMEOUT_S = 10.0  # for one reading: a collection stops the program, and nobody waits for it without end


class Where(NamedTuple):
    """One heap: of a process, or of one of its worker threads."""

    pid: int
    thread: int = 0  # the main one

    def __str__(self) -> str:
        return f"pid {self.pid}, worker thread {self.thread}" if self.thread else f"pid {self.pid}"


class HeapReading(NamedTuple):
    """One heap after a full collection.

    live_bytes: in use, of what counts toward `capacity_bytes`. capacity_bytes: at which the runtime gives
    up; None: it has no limit of its own. early_bytes: from where it may give up under unceasing load; None:
    at its capacity alone. where: whose; all_live_bytes: of all heaps that were read with it. None, {}: there
    is no choice.
    """

    live_bytes: int
    capacity_bytes: int | None
    early_bytes: int | None
    where: Where | None = None
    all_live_bytes: Mapping[Where, int] = MappingProxyType({})


class HeapUnknown(Exception):
    """The heap could not be read. `reason`: a plain sentence, with the remedy."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Runtime(Protocol):
    """What one or more of a server's processes run on.

    name: "Node 20.20 (V8)". heap: asks for a full collection first, takes `TIMEOUT_S` at most, and raises
    HeapUnknown. ceilings: what the heap of the last reading ends at; asks nobody. unread: what of the server
    has a heap that is in no figure, in words.
    """

    @property
    def name(self) -> str: ...

    def heap(self) -> HeapReading: ...

    def ceilings(self) -> list[Ceiling]: ...

    def unread(self) -> str | None: ...

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
