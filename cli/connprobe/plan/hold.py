"""From what was asked and what the host allows to a plan, or to every obstacle at once. Pure."""

import ipaddress
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from connprobe.model import HoldPlan, HoldRequest, HostFacts, Obstacle, Shard, SourceShare, Target
from connprobe.plan.capacity import (
    FD_RESERVE,
    PROCESS_BYTES,
    Shape,
    bytes_per_connection,
    capacities,
    ports_per_source,
    processes_for,
    server_processes_for,
)

LOOPBACK_SHARE = (
    10_000  # connections from one 127.x address: well under its ports, so that a free one is found at once
)
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_WHAT = {
    "source_ports": "source ports",
    "memory": "memory",
    "cgroup_memory": "memory of the cgroup",
    "file_max": "open files of the whole system (beyond it, every unprivileged program here fails too)",
    "epoll_watches": "epoll watches of this user",
    "conntrack": "tracked connections",
    "threads": "processes",
}


class Route(NamedTuple):
    """How this host reaches the target."""

    interface: str
    source: str  # the kernel's choice
    sources: tuple[str, ...]  # all addresses of that interface in the family, the kernel's choice first
    on_this_host: bool


def plan_hold(
    request: HoldRequest, facts: HostFacts, target: Target | None, route: Route, nofile: int, seed: int
) -> tuple[HoldPlan, tuple[Obstacle, ...]]:
    """The plan, and what forbids it. Nothing is forbidden when the second is empty.

    target None: the embedded server on 127.0.0.1. nofile: descriptors per process once raised.
    seed: where in 127.0.0.0/8 the sources begin, so that TIME_WAIT of an earlier run is not met again.
    """
    embedded = target is None
    address = "127.0.0.1" if target is None else target.address
    ports = ports_per_source(facts, request.source_ports)
    first_port = request.source_ports[0] if request.source_ports else 0
    workers = request.workers or default_workers(request.count, nofile, facts.cpus)
    pool = _source_pool(request, address, route, seed)
    servers = 0
    if embedded:
        servers = request.server_processes or server_processes_for(request.count, nofile, facts.cpus)
    shape = Shape(
        both_ends=route.on_this_host,
        tls=request.tls is not None,
        source_addresses=len(pool),
        ports_per_source=ports,
        embedded=embedded,
        processes=workers + servers,
    )
    obstacles = list(_resource_obstacles(request, facts, nofile, shape))
    obstacles += _request_obstacles(request, facts, nofile, workers, servers)
    if obstacles:
        shards: tuple[Shard, ...] = ()
    else:
        shards = tuple(_shards(request.count, workers, pool, ports, first_port, _on_loopback(address)))
    used = {share.address for shard in shards for share in shard.sources}
    plan = HoldPlan(
        target=target,
        count=request.count,
        nofile=nofile,
        workers=workers,
        server_processes=servers,
        source_addresses=len(used),
        ports_per_source=ports,
        source_ports=request.source_ports,
        memory_bytes=request.count * bytes_per_connection(shape) + (workers + servers) * PROCESS_BYTES,
        alias_interface=request.alias_interface,
        alias_addresses=tuple(a for a in request.alias_addresses if a in used),
        shards=shards,
        notes=tuple(_notes(request, facts, workers)),
    )
    return plan, tuple(obstacles)


def default_workers(count: int, nofile: int, cpus: int) -> int:
    """As many as descriptors ask for, and enough to use the processors where the count is worth it."""
    return max(processes_for(count, nofile), min(cpus, math.ceil(count / 5000)))


def _on_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]) in _LOOPBACK


class _LoopbackAddresses(Sequence[str]):
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


def _source_pool(request: HoldRequest, address: str, route: Route, seed: int) -> Sequence[str]:
    """Source addresses in the order of use, each once."""
    if request.alias_addresses or request.sources is not None:
        return list(dict.fromkeys([*(request.sources or ()), *request.alias_addresses]))
    if _on_loopback(address):
        return _LoopbackAddresses(seed)
    return list(dict.fromkeys(route.sources)) or [""]


def _shards(
    count: int, workers: int, pool: Sequence[str], ports: int, first_port: int, loopback: bool
) -> list[Shard]:
    """Connections shared evenly, each address filled before the next is begun. On loopback no two workers
    share an address where there are enough, so that they do not compete for its ports."""
    limit, apart = _from_one_address(count, workers, len(pool), ports) if loopback else (ports, False)
    shards, position, room = [], 0, limit
    for index in range(workers):
        share = count // workers + (index < count % workers)
        left, sources = share, []
        while left > 0:
            if room == 0:
                position, room = position + 1, limit
            take = min(left, room)
            port = first_port + limit - room if first_port else 0
            sources.append(SourceShare(address=pool[position], count=take, first_port=port))
            left, room = left - take, room - take
        if apart:
            room = 0
        shards.append(Shard(index=index, count=share, sources=tuple(sources)))
    return shards


def _from_one_address(count: int, workers: int, addresses: int, ports: int) -> tuple[int, bool]:
    """(connections from one address, whether each worker can have addresses of its own)."""
    for limit in (min(LOOPBACK_SHARE, ports), ports):
        if workers * math.ceil(math.ceil(count / workers) / limit) <= addresses:
            return limit, True
    return ports, False


def _resource_obstacles(request: HoldRequest, facts: HostFacts, nofile: int, shape: Shape) -> list[Obstacle]:
    return [
        Obstacle(
            what=f"{_WHAT[found.resource]} ({found.source})",
            have=f"room for {found.connections:,} connections ({found.used:,} of {found.capacity:,} in use)",
            need=f"{request.count:,} connections at {found.per_connection:,.6g} each",
            fix=found.fix,
        )
        for found in capacities(facts, nofile, shape, request.count)
        if found.connections < request.count
    ]


def _request_obstacles(
    request: HoldRequest, facts: HostFacts, nofile: int, workers: int, servers: int
) -> list[Obstacle]:
    obstacles = []
    if nofile <= FD_RESERVE:
        obstacles.append(
            Obstacle(
                what="file descriptors of one process (RLIMIT_NOFILE)",
                have=f"{nofile:,}",
                need=f"more than {FD_RESERVE}",
                fix="ulimit -n 20000",
            )
        )
        return obstacles + _option_obstacles(request, facts)
    own = 2 * (workers + servers) + FD_RESERVE  # a pair of sockets for each while they start
    if own > nofile:
        obstacles.append(
            Obstacle(
                what="file descriptors of this command (RLIMIT_NOFILE)",
                have=f"{nofile:,}",
                need=f"{own:,}: two for each of {workers + servers:,} processes",
                fix=f"ulimit -n {own}, or fewer connections",
            )
        )
    for count, option, what in (
        (workers, "--workers", "workers"),
        (servers, "--processes", "server processes"),
    ):
        room = count * (nofile - FD_RESERVE)
        if count and room < request.count:
            obstacles.append(
                Obstacle(
                    what=f"file descriptors of {count} {what} (RLIMIT_NOFILE {nofile:,} each)",
                    have=f"room for {room:,} connections",
                    need=f"{request.count:,}: {processes_for(request.count, nofile):,} {what}",
                    fix=f"{option} auto" if option == "--workers" else f"{option} {servers * 2}",
                )
            )
    return obstacles + _option_obstacles(request, facts)


def _option_obstacles(request: HoldRequest, facts: HostFacts) -> list[Obstacle]:
    obstacles = []
    if request.alias_interface is not None and "CAP_NET_ADMIN" not in facts.capabilities:
        obstacles.append(
            Obstacle(
                what=f"adding addresses to {request.alias_interface}",
                have="no CAP_NET_ADMIN",
                need="CAP_NET_ADMIN",
                fix="run with sudo, or let an administrator add them and name them with --sources",
            )
        )
    return obstacles


def _notes(request: HoldRequest, facts: HostFacts, workers: int) -> list[str]:
    notes = []
    if request.concurrency > facts.somaxconn:
        notes.append(
            f"--concurrency {request.concurrency:,} is above net.core.somaxconn {facts.somaxconn:,}: "
            "a server on this host may overflow its accept queue"
        )
    ramp_s = request.count / request.rate_per_s if request.rate_per_s else 0
    if ramp_s > 3600:
        notes.append(f"at {request.rate_per_s:,.0f} a second the ramp takes {ramp_s / 3600:.1f} h")
    return notes
