"""Which worker connects from which source address and port. Pure.

connect(2) looks for a free port among those of one parity first (__inet_hash_connect); once these are
taken it scans all of them in vain for each connection: 20 us become 1 ms. So an address gives the kernel
half of its ports to choose from; the other half, where it is needed, is bound one by one.
"""

import ipaddress
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from connprobe.model import HostFacts, Shard, SourceShare

LOOPBACK_SHARE = 4_000  # connections from one 127.x address, of which there are 16 million
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


class Segment(NamedTuple):
    """Part of an address's ports. first 0: the kernel chooses; else every step-th up to last is bound."""

    room: int
    first: int = 0
    last: int = 0
    step: int = 1


def on_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]) in _LOOPBACK


class LoopbackAddresses(Sequence[str]):
    """All of 127.0.0.0/8 but the network, 127.0.0.1 and the broadcast address, beginning at `seed`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __len__(self) -> int:
        return _LOOPBACK.num_addresses - 3

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return str(_LOOPBACK[2 + (self._seed + index) % len(self)])


def segments(facts: HostFacts, source_ports: tuple[int, int] | None) -> list[Segment]:
    """The ports that one address offers, the cheap ones first."""
    if source_ports is not None:
        low, high = source_ports
        return [Segment(high - low + 1, low, high)]
    total = facts.port_high - facts.port_low + 1 - facts.reserved_ports
    half = total // 2  # of an odd number the kernel leaves one out (remaining &= ~1U)
    if facts.reserved_ports or not half:  # an explicit bind would take reserved ports too
        return [Segment(total)]
    return [Segment(half), Segment(half, facts.port_low + 1, facts.port_high, 2)]


def deal(count: int, workers: int, pool: Sequence[str], offered: Sequence[Segment]) -> list[Shard]:
    """Connections shared evenly over workers; each address is filled before the next is begun.

    Where the pool is large enough, only the first segment of each address is used; on loopback a small
    part of that, and no two workers share an address, so that they do not compete for its ports.
    """
    runs, apart = _choose(count, workers, pool, offered)
    shards = []
    run, used = next(runs, None), 0
    for index in range(workers):
        share = count // workers + (index < count % workers)
        left, sources = share, []
        while left > 0:
            assert run is not None, "a plan with too few ports was not refused"
            address, segment = run
            take = min(left, segment.room - used)
            if take:
                first = segment.first + used * segment.step if segment.first else 0
                ports = (segment.first, segment.last, segment.step) if segment.first else None
                sources.append(SourceShare(address=address, count=take, first_port=first, ports=ports))
            left, used = left - take, used + take
            if used == segment.room:
                run, used = next(runs, None), 0
        if apart and used:
            run, used = next(runs, None), 0
        shards.append(Shard(index=index, count=share, sources=tuple(sources)))
    return shards


def _choose(
    count: int, workers: int, pool: Sequence[str], offered: Sequence[Segment]
) -> tuple[Iterator[tuple[str, Segment]], bool]:
    """Runs of connections from one address each, and whether each worker gets addresses of its own."""
    cheap = offered[0]
    if isinstance(pool, LoopbackAddresses):
        run = cheap._replace(room=min(LOOPBACK_SHARE, cheap.room))
        if workers * math.ceil(math.ceil(count / workers) / run.room) <= len(pool):
            return ((address, run) for address in pool), True
    if len(pool) * cheap.room >= count:
        return ((address, cheap) for address in pool), False
    return ((address, segment) for address in pool for segment in offered if segment.room), False
