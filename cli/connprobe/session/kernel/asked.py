"""One question to the kernel over a whole run: the probe that answers it, or why none does.

A probe that fails in mid-run, or one of whose hooks was torn away, is not asked again: what answers the
question below it serves from then on, and the run says so.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from connprobe.kernel.live import Live
from connprobe.kernel.loader import Unavailable
from connprobe.model import ProbeUse

_DETACHED = "detached "


class Reading(Protocol):
    @property
    def lost(self) -> dict[str, int]: ...


R = TypeVar("R", bound=Reading)


class Asked(Generic[R]):
    """begin: makes a reader of the live probe. below: what answers where no probe does; None: nothing."""

    def __init__(
        self,
        name: str,
        probe: Live | Unavailable,
        begin: Callable[[Live], Callable[[], R]],
        *,
        below: str | None,
    ) -> None:
        self.name = name
        self.torn: str | None = None  # why it is not asked any more
        self._probe, self._below = probe, below
        self._lost: dict[str, int] = {}
        self._read: Callable[[], R] | None = None
        if isinstance(probe, Live):
            try:
                self._read = begin(probe)
            except OSError as error:
                self._tear(error.strerror or str(error))

    @property
    def serves(self) -> bool:
        return self._read is not None

    @property
    def source(self) -> str:
        return f"eBPF: {self._probe.rung}" if isinstance(self._probe, Live) else ""

    @property
    def lost(self) -> dict[str, int]:
        """What it could not count, by cause."""
        return self._lost

    def read(self) -> R | None:
        """None: no probe serves (any more)."""
        if self._read is None:
            return None
        try:
            reading = self._read()
        except OSError as error:
            self._tear(error.strerror or str(error))
            return None
        self._lost = dict(reading.lost)
        gone = [cause.removeprefix(_DETACHED) for cause in self._lost if cause.startswith(_DETACHED)]
        if gone:
            self._tear(f"{', '.join(gone)} leads to it no more")
            return None
        return reading

    def _tear(self, why: str) -> None:
        self.torn = f"torn away in the run: {why}"
        self._read = None

    def use(self) -> ProbeUse:
        """Which rung answered, and why not a better one."""
        probe = self._probe
        if isinstance(probe, Unavailable):
            return ProbeUse(name=self.name, source=self._below, reason=probe.reason, fix=probe.fix)
        if self.torn is not None:
            return ProbeUse(name=self.name, source=self._below, reason=self.torn, lost=self._lost)
        refused = "; ".join(f"{one.rung}: {one.reason}" for one in probe.refused)
        return ProbeUse(
            name=self.name,
            source=self.source,
            reason=refused or None,
            programs=probe.programs,
            kernel_memory_bytes=probe.memory_bytes if probe.maps else None,
            lost=self._lost,
        )
