"""From what was asked and what the host allows to a plan, or to every obstacle at once. Pure."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from connprobe.model import HoldPlan, HoldRequest, HostFacts, Obstacle, Shard, Target
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
from connprobe.plan.sources import LOOPBACK_SHARE, LoopbackAddresses, deal, on_loopback, segments

LEAST_SHARE = 1024  # of a worker, that some of it may be another's: below, a ramp is over at once
MOST_PROCESSES = 8  # of workers: each takes 2 to 3 MB by itself, a thread a tenth of that

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
    workers = request.workers or default_workers(request.count, nofile, facts.cpus)
    processes = worker_processes(request, workers, facts)
    pool = _source_pool(request, address, route, seed)
    servers = server_processes_for(request.count, nofile, facts.cpus) if embedded else 0
    shape = shape_of(request, facts, target, route, nofile)
    obstacles = list(_resource_obstacles(request, facts, nofile, shape))
    obstacles += _request_obstacles(request, facts, nofile, workers, servers)
    if obstacles:
        shards: tuple[Shard, ...] = ()
    else:
        shards = tuple(deal(request.count, workers, pool, segments(facts, request.source_ports)))
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
        memory_bytes=request.count * bytes_per_connection(shape) + (processes + servers) * PROCESS_BYTES,
        alias_interface=request.alias_interface,
        alias_addresses=tuple(a for a in request.alias_addresses if a in used),
        shards=shards,
        notes=tuple(_notes(request, facts, workers)),
        worker_processes=processes,
    )
    return plan, tuple(obstacles)


def shape_of(
    request: HoldRequest, facts: HostFacts, target: Target | None, route: Route, nofile: int
) -> Shape:
    """What a connection of this request costs this host. Parameters as of `plan_hold`."""
    workers = request.workers or default_workers(request.count, nofile, facts.cpus)
    processes = worker_processes(request, workers, facts)
    servers = server_processes_for(request.count, nofile, facts.cpus) if target is None else 0
    address = "127.0.0.1" if target is None else target.address
    return Shape(
        both_ends=route.on_this_host,
        tls=request.tls is not None,
        source_addresses=len(_source_pool(request, address, route, 0)),
        ports_per_source=ports_per_source(facts, request.source_ports),
        embedded=target is None,
        processes=processes + servers,
        threads=workers + servers + (processes if processes < workers else 0),
    )


def default_workers(count: int, nofile: int, cpus: int) -> int:
    """As many as descriptors ask for, and enough to use the processors where the count is worth it."""
    return max(processes_for(count, nofile), min(cpus, math.ceil(count / 5000)))


def worker_processes(request: HoldRequest, workers: int, facts: HostFacts) -> int:
    """One for each worker as long as these are few, or asked for; else as many as can work at a time."""
    few = request.workers is not None or workers <= MOST_PROCESSES or not facts.may_unshare
    return workers if few else min(workers, max(2, facts.cpus))


def has_stock(request: HoldRequest, plan: HoldPlan, address: str) -> bool:
    """Whether workers that connect to `address` may differ in how much they open: see plan.stock.

    Not where a rate sets their pace, where how many they are was asked for, and where source ports are
    scarce: a worker may open twice its share, and connect(2) takes one half of the ports first.
    """
    chosen = request.sources is not None or request.source_ports is not None or request.alias_addresses
    return (
        plan.workers > 1
        and not (request.rate_per_s or request.workers or chosen)
        and on_loopback(address)
        and plan.ports_per_source // 2 >= 2 * LOOPBACK_SHARE
        and plan.count // plan.workers >= LEAST_SHARE
    )


def _source_pool(request: HoldRequest, address: str, route: Route, seed: int) -> Sequence[str]:
    """Source addresses in the order of use, each once."""
    if request.alias_addresses or request.sources is not None:
        return list(dict.fromkeys([*(request.sources or ()), *request.alias_addresses]))
    if on_loopback(address):
        return LoopbackAddresses(seed)
    return list(dict.fromkeys(route.sources)) or [""]


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
                need=f"{own:,}: two for each of {workers + servers:,} workers and processes",
                fix=f"ulimit -n {own}, or fewer connections",
            )
        )
    room = workers * (nofile - FD_RESERVE)
    if room < request.count:
        obstacles.append(
            Obstacle(
                what=f"file descriptors of {workers} workers (RLIMIT_NOFILE {nofile:,} each)",
                have=f"room for {room:,} connections",
                need=f"{request.count:,}: {processes_for(request.count, nofile):,} workers",
                fix="--workers auto",
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
    if request.concurrency < workers:
        notes.append(f"--concurrency {request.concurrency:,} becomes {workers:,}: one for each worker")
    ramp_s = request.count / request.rate_per_s if request.rate_per_s else 0
    if ramp_s > 3600:
        notes.append(f"at {request.rate_per_s:,.0f} a second the ramp takes {ramp_s / 3600:.1f} h")
    return notes
