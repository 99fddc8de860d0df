"""The heap of a server's runtime through a trial: found once it runs, read at each plateau."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from connprobe.model import Ceiling, Reading
from connprobe.observe.runtimes import HeapReading, HeapUnknown, Preparation, Runtime, attach

MOST_COLLECTIONS, MOST_S = 6, 10.0  # of one reading, but for the collection that is under way by then
BETWEEN_S = 0.1
SAME = 0.002


class Heap:
    """prepared: of a server that connprobe starts. limit_bytes: what the user says that it may grow to.

    hurry: whether there is no time for one more collection. unknown: why there are no figures, or not all.
    unread: what of the server has a heap that is in none.
    """

    def __init__(
        self,
        prepared: Preparation | None,
        *,
        inspect: bool,
        limit_bytes: int | None,
        hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        self.unknown: str | None = "no runtime was asked"
        self.unread: str | None = None
        self.name: str | None = None
        self.last_bytes: int | None = None
        self.capacity_bytes: int | None = None
        self._prepared, self._inspect, self._limit_bytes = prepared, inspect, limit_bytes
        self._hurry = hurry
        self._runtime: Runtime | None = None
        self._pids: Sequence[int] = ()
        self._readings: list[HeapReading] = []

    def attach(self, pids: Sequence[int]) -> None:
        self._pids = pids
        found = attach(pids, self._prepared, inspect=self._inspect)
        self._runtime, self.unknown = found.runtime, found.reason
        self.name = found.runtime.name if found.runtime is not None else None

    def read(self) -> Mapping[str, float]:
        """{"heap_bytes": live, after a collection}, or nothing.

        One collection runs finalisers, and what they let go only the next one takes: it is repeated until
        it finds no more.
        """
        if self._runtime is None:
            return {}
        until = time.monotonic() + MOST_S
        try:
            reading = self._runtime.heap()
            for _ in range(MOST_COLLECTIONS - 1):
                if self._hurry() or time.monotonic() >= until:
                    break
                time.sleep(BETWEEN_S)
                before, reading = reading.live_bytes, self._runtime.heap()
                if abs(before - reading.live_bytes) <= SAME * before:
                    break
        except HeapUnknown as error:
            self.unknown = str(error)
            return {}
        self.last_bytes, self.capacity_bytes = reading.live_bytes, reading.capacity_bytes
        self.unread = self._runtime.unread()
        self._readings.append(reading)
        return {"heap_bytes": float(reading.live_bytes)}

    def told_again(self, readings: Sequence[Reading]) -> list[Reading]:
        """`readings`, all of the heap that the last one is of, where worker threads have heaps too.

        Which one ends first is known once they have grown; what `read` said before was of another one.
        """
        whose = {reading.where for reading in self._readings}
        if not any(where is not None and where.thread for where in whose):
            return list(readings)
        last, known = self._readings[-1].where, iter(self._readings)
        found = []
        for reading in readings:
            use = dict(reading.use)
            if use.pop("heap_bytes", None) is not None:
                live = next(known).all_live_bytes
                use |= {"heap_bytes": float(live[last])} if last is not None and last in live else {}
            found.append(replace(reading, use=use))
        return found

    def ceilings(self) -> list[Ceiling]:
        """The runtime's own, and the one that the user named, which takes its place."""
        own = self._runtime.ceilings() if self._runtime is not None else []
        if self._limit_bytes is None:
            return own
        known = self.last_bytes is not None
        return [
            Ceiling(
                resource="heap",
                scope=own[0].scope if own else f"server (pid {self._pids[0]})" if self._pids else "server",
                capacity=self._limit_bytes,
                source=f"--heap-limit, with what {self.name} says it uses" if known else "--heap-limit",
                fix=own[0].fix if own else "raise the heap limit of the server's runtime",
                metric="heap_bytes" if known else "rss_bytes",
                used=self.last_bytes,
                unit="bytes",
                exact=False,
                note=None if known else "by RSS, which counts more than the heap",
            )
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None
        if self._prepared is not None:
            self._prepared.close()
