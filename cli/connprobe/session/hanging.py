"""Workers of a run that hang."""

import time

from connprobe.engine import counters
from connprobe.fleet.fleet import Fleet

HANGING_S = 30.0  # beyond the time that a connection is given
STOPPED_S = 5.0  # without a look of ours: we were stopped ourselves (Ctrl-Z), and perhaps they with us


class Hanging:
    """Those that have not looked at their clock for so long that nothing else can be the reason."""

    def __init__(self, timeout_s: float) -> None:
        """timeout_s: of a connection."""
        self._patience_s = timeout_s + HANGING_S
        self._looked = self._awake_since = time.monotonic()

    def workers(self, fleet: Fleet) -> set[int]:
        """To be asked all the time."""
        now = time.monotonic()
        if now - self._looked > STOPPED_S:
            self._awake_since = now
        self._looked = now
        if now - self._awake_since < self._patience_s:
            return set()
        before = time.monotonic_ns() - int(self._patience_s * 1e9)
        ticked = fleet.table.column(counters.TICKED_NS)
        return {index for index in fleet.alive if 0 < ticked[index] < before}
