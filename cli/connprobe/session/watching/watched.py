"""Which listeners are watched, and the processes behind them: looked for again as they come and go."""

import time
from collections.abc import Sequence

from connprobe.model import ServerUse
from connprobe.observe.listeners import holders_of, sockets_of
from connprobe.observe.process import ProcessGroup
from connprobe.observe.sockdiag import ListenSocket

SEARCH_S = 5.0  # between two searches
SEARCH_SHARE = 0.02  # of the time, at most, for these searches


class Watched:
    """The listeners on `port` (None: any) that `pid` holds (None: whoever).

    last: what the processes took while there was one. unknown: what could not be found, and why.
    """

    def __init__(self, port: int | None, pid: int | None) -> None:
        self.last: ServerUse | None = None
        self.unknown: dict[str, str] = {}
        self._port, self._pid = port, pid
        self._group: ProcessGroup | None = ProcessGroup([pid]) if pid is not None else None
        self._chosen: Sequence[ListenSocket] = ()
        self._inodes: frozenset[int] = frozenset()  # of the listeners at the last search
        self._search_at = 0.0

    def choose(self, sockets: Sequence[ListenSocket]) -> Sequence[ListenSocket]:
        found = [entry for entry in sockets if self._port in (None, entry.port)]
        self._chosen = found if self._pid is None else self._held(self._pid, found)
        return self._chosen

    def _held(self, pid: int, sockets: Sequence[ListenSocket]) -> Sequence[ListenSocket]:
        """Those that `pid` holds; looked for again when others listen, as each look costs it dentries."""
        inodes, now = frozenset(entry.inode for entry in sockets), time.monotonic()
        held = {entry.inode for entry in self._chosen}
        if inodes != self._inodes or now >= self._search_at:
            self._inodes, self._search_at = inodes, now + SEARCH_S
            try:
                held = {entry.inode for entry in sockets_of(pid, sockets)}
                self.unknown.pop("listeners", None)
            except PermissionError:
                held = set()
                self.unknown["listeners"] = f"/proc/{pid}/fd may not be read: run as root"
        return [entry for entry in sockets if entry.inode in held]

    def processes(self) -> ServerUse | None:
        """What they take. Without a listener, those that had one are followed on: they hold connections."""
        now = time.monotonic()
        if self._pid is None and self._port is not None:
            self._search(now)
        use = self._group.sample(now) if self._group is not None else None
        if use is None and self._pid is None:
            self._group = None
        self.last = use or self.last
        return use

    def _search(self, now: float) -> None:
        inodes = frozenset(entry.inode for entry in self._chosen)
        if not inodes or now < self._search_at or (inodes == self._inodes and self._group is not None):
            return
        found = holders_of(self._chosen)
        took = time.monotonic() - now
        self._inodes, self._search_at = inodes, now + max(SEARCH_S, took / SEARCH_SHARE)
        if found.pids:
            self._group = ProcessGroup(found.pids)
        if found.reason is not None:
            self.unknown["server"] = found.reason
        elif found.pids:
            self.unknown.pop("server", None)
