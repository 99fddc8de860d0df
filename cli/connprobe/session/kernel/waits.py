"""Time in the accept queue by eBPF over a whole run, by listening address: what was closed stays counted."""

from collections.abc import Iterable, Mapping, Set
from typing import Final, NamedTuple

from connprobe.kernel.accept_wait import AcceptWait
from connprobe.model import Distribution
from connprobe.plan.distribution import distribution

ADDRESSES_KEPT: Final = 1024  # those where nothing listens any more go first


class Wait(NamedTuple):
    """Of the connections to one address. least: where it is inferred, they waited at least so long."""

    most: Distribution
    least: Distribution | None = None


class _Address:
    def __init__(self) -> None:
        self.live: dict[int, AcceptWait] = {}
        self.longest_us = 0
        self._closed: list[int] = []
        self._closed_total_us = self._closed_accepted = 0

    def see(self, wait: AcceptWait) -> None:
        self.longest_us = max(self.longest_us, wait.longest_us)
        self.live[wait.inode] = wait
        if wait.closed:
            del self.live[wait.inode]
            self._closed = _added([self._closed or [0] * len(wait.waits), wait.waits])
            self._closed_total_us += wait.total_us
            self._closed_accepted += wait.accepted

    @property
    def accepted(self) -> int:
        return self._closed_accepted + sum(each.accepted for each in self.live.values())

    def distribution(self) -> Distribution | None:
        rows = [each.waits for each in self.live.values()]
        total_us = self._closed_total_us + sum(each.total_us for each in self.live.values())
        return distribution(
            _added([*rows, self._closed] if self._closed else rows), total_us, self.longest_us
        )


class Waits:
    """Takes what the probe accept_wait reads. `mine`: the inodes of the listeners that are meant."""

    def __init__(self) -> None:
        self._addresses: dict[str, _Address] = {}
        self._mine: set[int] = set()

    def take(self, waits: Iterable[AcceptWait], mine: Set[int]) -> None:
        self._mine |= mine
        for wait in waits:
            if wait.inode in self._mine:
                self._addresses.setdefault(str(wait.at), _Address()).see(wait)
        # A listener without an accept is not in the reading, so it is kept only while it is meant.
        self._mine = set(mine) | {inode for each in self._addresses.values() for inode in each.live}
        idle = [address for address, each in self._addresses.items() if not each.live]
        for address in idle[: max(0, len(self._addresses) - ADDRESSES_KEPT)]:
            del self._addresses[address]

    def unseen(self, taken: Mapping[str, int]) -> dict[str, int]:
        """By address, at least so many left its queues by no accept that was seen: by io_uring, or as MPTCP.

        taken: out of each address' queues a while ago, so that every accept of these has returned by now.
        """
        return {
            address: max(0, count - (self._addresses[address].accepted if address in self._addresses else 0))
            for address, count in taken.items()
        }

    def at(self, address: str) -> Wait | None:
        """None: no accept of a connection there was seen."""
        found = self._addresses.get(address)
        seen = found.distribution() if found is not None else None
        return None if seen is None else Wait(seen)


def _added(rows: Iterable[Iterable[int]]) -> list[int]:
    return list(map(sum, zip(*rows, strict=True)))
