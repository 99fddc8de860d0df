"""Accept queues without eBPF: readings of sock_diag, a second apart, made into figures of each listener."""

from collections.abc import Iterable
from typing import Final

from connprobe.model import ListenerFigures, ListenSocketFigures
from connprobe.observe.sockdiag import Address, ListenSocket
from connprobe.plan.acceptqueue import capacity, capacity_from

CLOSED_KEPT: Final = 23  # sockets of one address, told apart after they were closed; the rest is summed
ADDRESSES_KEPT: Final = 4096  # those where nothing listens any more go first
_WRAP = 1 << 32  # sk_drops is an atomic_t
_SAMPLED = "the depth is that of samples: what rose and fell between two of them was not seen"
_SK_DROPS = "overflows are sk_drops, which counts other drops of the listener too"
_PROC = "/proc/net/tcp tells neither capacity nor drops"

_Key = tuple[int, Address, int, int]  # family, address, port, interface


class _Socket:
    """One LISTEN socket over the time that it was seen."""

    def __init__(self, first: ListenSocket, drops_before: int) -> None:
        self.last = first
        self.depth_max = first.depth
        self._drops_before = drops_before

    def see(self, now: ListenSocket) -> None:
        self.last = now
        if now.depth is not None:
            self.depth_max = max(now.depth, self.depth_max or 0)

    @property
    def overflows(self) -> int | None:
        return None if self.last.drops is None else (self.last.drops - self._drops_before) % _WRAP

    def figures(self, *, gone: bool) -> ListenSocketFigures:
        return ListenSocketFigures(
            inode=self.last.inode,
            depth=None if gone else self.last.depth,
            depth_max=self.depth_max,
            capacity=None if self.last.backlog is None else capacity(self.last.backlog),
            overflows=self.overflows,
            gone=gone,
        )


class _Listener:
    """All sockets that listened on one address: more than one at a time form an SO_REUSEPORT group."""

    def __init__(self) -> None:
        self.live: dict[tuple[int, int | None], _Socket] = {}
        self.closed: list[_Socket] = []
        self.closed_count = 0
        self.closed_overflows = 0
        self.depth_max: int | None = None

    def see(self, entries: Iterable[ListenSocket], *, at_start: bool) -> None:
        before, self.live = self.live, {}
        for entry in entries:
            # The cookie is never given twice; an inode number may be.
            identity = (entry.inode, entry.cookie)
            known = before.pop(identity, None)
            if known is None:
                known = _Socket(entry, (entry.drops or 0) if at_start else 0)
            known.see(entry)
            self.live[identity] = known
        for gone in before.values():
            self.closed_count += 1
            self.closed_overflows += gone.overflows or 0
            self.closed = [*self.closed, gone][-CLOSED_KEPT:]
        depth = self.depth
        if depth is not None:
            self.depth_max = max(depth, self.depth_max or 0)

    @property
    def depth(self) -> int | None:
        return _sum([each.last.depth for each in self.live.values()])

    @property
    def overflows(self) -> int | None:
        now = _sum([each.overflows for each in self.live.values()])
        if now is None and self.live:
            return None
        return (now or 0) + self.closed_overflows


class AcceptQueues:
    """Follows listeners from one `sample` to the next; the first one sets what overflows are counted from.

    All samples must be of one source and one network namespace. somaxconn: that of this namespace.
    """

    def __init__(self, somaxconn: int | None = None) -> None:
        self.samples = 0
        self.forgotten = 0  # addresses where nothing listened any more, left out for want of room
        self._somaxconn = somaxconn
        self._listeners: dict[_Key, _Listener] = {}

    def sample(self, sockets: Iterable[ListenSocket]) -> None:
        """Takes the LISTEN sockets that exist now; one that is missing was closed."""
        by_key: dict[_Key, list[ListenSocket]] = {key: [] for key in self._listeners}
        for entry in sockets:
            by_key.setdefault((entry.family, entry.address, entry.port, entry.interface), []).append(entry)
        for key, entries in by_key.items():
            self._listeners.setdefault(key, _Listener()).see(entries, at_start=not self.samples)
        self.samples += 1
        surplus = len(self._listeners) - ADDRESSES_KEPT
        for key in [key for key, each in self._listeners.items() if not each.live][: max(0, surplus)]:
            del self._listeners[key]
            self.forgotten += 1

    def figures(self) -> tuple[ListenerFigures, ...]:
        """One for each address, by port. Never complete: `reason` says what samples cannot show."""
        keys = sorted(self._listeners, key=lambda key: (key[2], key[0], int(key[1]), key[3]))
        return tuple(self._figures(key, self._listeners[key]) for key in keys)

    def _figures(self, key: _Key, listener: _Listener) -> ListenerFigures:
        latest = [*listener.live.values()] or listener.closed[-1:]
        backlogs = [each.last.backlog for each in latest if each.last.backlog is not None]
        told = len(backlogs) == len(latest)
        reasons = [f"{_SAMPLED} ({self.samples:,} samples)", _SK_DROPS if told else _PROC]
        if listener.closed_count:
            reasons.append(f"{listener.closed_count:,} sockets were closed, what they had since is not known")
        return ListenerFigures(
            address=_label(key),
            depth_max=listener.depth_max,
            capacity=sum(map(capacity, backlogs)) if told else None,
            overflows=listener.overflows,
            wait_ms=None,
            source="sock_diag" if told else "/proc/net/tcp",
            reason="; ".join(reasons),
            depth=listener.depth if listener.live else None,
            capacity_from="; ".join(capacity_from(each, self._somaxconn) for each in sorted(set(backlogs)))
            or None,
            sockets=(
                *(each.figures(gone=False) for each in listener.live.values()),
                *(each.figures(gone=True) for each in listener.closed),
            ),
        )


def _label(key: _Key) -> str:
    _, address, port, interface = key
    scope = f"%{interface}" if interface else ""
    return f"[{address}{scope}]:{port}" if address.version == 6 else f"{address}{scope}:{port}"


def _sum(values: list[int | None]) -> int | None:
    """None: one is not known, or there is none."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
