"""How many connections each resource of this host allows, and the command that lifts it. Pure.

One table serves `doctor` (what can this host hold?) and the preflight (is what was asked for too much?).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from connprobe.model import Capacity, HostFacts

FD_RESERVE = 64  # descriptors of a process that are not connections
# Listeners that get what comes from neighbouring ports, 512 at most from one address in a row: from so many
# descriptors on, and with so many more than the mean (at 400,000 over 23 the fullest had 204 more).
STEERED_NOFILE, UNEVEN = 8192, 1024
KERNEL_BYTES_PAIR = 8300  # both ends on this host; measured at 200,000 sockets, see docs/measuring.md
KERNEL_BYTES_REMOTE = 4300
USER_BYTES = 200  # of one end, in user space, in connprobe's own processes
TLS_BYTES = 50_000  # of one end: OpenSSL's state of one session under Python
PROCESS_BYTES = 4_000_000  # a worker or a process of the embedded server, before its first connection
MEMORY_KEPT_FREE = 0.05
UNLIMITED = 1 << 62
ALL_PORTS = 65535 - 1024 + 1
MOST_PIDS = 1 << 22  # PID_MAX_LIMIT of a 64-bit kernel: it takes no larger kernel.pid_max


class Shape(NamedTuple):
    """What a connection of this run costs this host."""

    both_ends: bool  # the server is on this host too
    tls: bool = False
    source_addresses: int = 1
    ports_per_source: int = 28232
    embedded: bool = False  # the server is connprobe's own
    processes: int = 0  # connprobe's own, where a plan knows them
    threads: int = 0  # of these processes in all; 0: one each


def bytes_per_connection(shape: Shape) -> int:
    """Memory of this host, kernel and user space of connprobe's own processes (not of a foreign server)."""
    ends = 2 if shape.embedded else 1
    kernel = KERNEL_BYTES_PAIR if shape.both_ends else KERNEL_BYTES_REMOTE
    return kernel + ends * (USER_BYTES + (TLS_BYTES if shape.tls else 0))


def ports_per_source(facts: HostFacts, source_ports: tuple[int, int] | None) -> int:
    """Source ports that one address offers towards one destination."""
    if source_ports is not None:
        return source_ports[1] - source_ports[0] + 1
    ports = facts.port_high - facts.port_low + 1 - facts.reserved_ports
    return ports if facts.reserved_ports else ports - ports % 2 * (ports > 1)  # as `plan.sources` deals them


def processes_for(count: int, nofile: int) -> int:
    """Processes that `count` connections need at `nofile` descriptors each."""
    return max(1, math.ceil(count / max(1, nofile - FD_RESERVE)))


def server_processes_for(count: int, nofile: int, cpus: int) -> int:
    """The same for SO_REUSEPORT listeners, which share by hash: room for six standard deviations. For more
    where each gets the connections of neighbouring ports."""
    room = max(1, nofile - FD_RESERVE)
    processes = max(1, min(cpus, math.ceil(count / 100)))
    while processes < count and _largest(count / processes, is_steered(processes, nofile, cpus)) > room:
        processes += max(1, processes // 50)
    return processes


def is_steered(listeners: int, nofile: int, cpus: int) -> bool:
    """Whether each gets the connections of neighbouring ports: a burst then wakes few processes. It comes out
    less even, so only where each has much room."""
    return listeners > cpus and nofile >= STEERED_NOFILE


def _largest(mean: float, steered: bool) -> float:
    return mean + 6 * math.sqrt(mean) + (UNEVEN if steered else 0)


def capacities(facts: HostFacts, nofile: int, shape: Shape, asked: int) -> tuple[Capacity, ...]:
    """Every resource of this host that can stop a hold, smallest first.

    asked: what the fixes reach for; a resource that has room for it needs none.

    nofile: descriptors a process may have, after its soft limit was raised as far as it goes.
    """
    ends = 2 if shape.both_ends else 1
    found = [_source_ports(facts, shape, asked), _memory(facts, shape, asked)]
    sides = 2 if shape.embedded else 1
    threads = shape.threads or shape.processes or sides * processes_for(asked, nofile)
    found.append(
        _capacity(
            "file_max",
            "/proc/sys/fs/file-max",
            facts.file_max,
            facts.files_in_use,
            ends,
            f"sysctl -w fs.file-max={facts.files_in_use + asked * ends + 100_000}",
        )
    )
    if facts.epoll_watches is not None:
        found.append(
            _capacity(
                "epoll_watches",
                "/proc/sys/fs/epoll/max_user_watches",
                facts.epoll_watches,
                0,
                2 if shape.embedded else 1,
                f"sysctl -w fs.epoll.max_user_watches={asked * 2 + 100_000}",
            )
        )
    if facts.conntrack_max is not None:
        used = facts.conntrack_count or 0
        found.append(
            _capacity(
                "conntrack",
                "/proc/sys/net/netfilter/nf_conntrack_max",
                facts.conntrack_max,
                used,
                1,
                f"sysctl -w net.netfilter.nf_conntrack_max={used + asked + 10_000}, or exempt this traffic: "
                "nft add rule with `notrack`",
            )
        )
    if facts.cgroup_memory_max_bytes is not None:
        found.append(
            _capacity(
                "cgroup_memory",
                "memory limit of this process's cgroup",
                facts.cgroup_memory_max_bytes,
                (facts.cgroup_memory_current_bytes or 0) + shape.processes * PROCESS_BYTES,
                bytes_per_connection(shape),
                "raise memory.max of the cgroup (systemctl set-property UNIT MemoryMax=…), or run outside it",
            )
        )
    for source, limit, used in (
        ("/proc/sys/kernel/pid_max", facts.pid_max, facts.processes_in_use),
        ("RLIMIT_NPROC", facts.process_limit, facts.user_processes_in_use),
        ("pids.max of this process's cgroup", facts.cgroup_pids_max, facts.cgroup_pids_current or 0),
    ):
        if limit is not None:
            found.append(_threads(source, limit, used, threads, asked, sides / max(1, nofile - FD_RESERVE)))
    enough = (replace(each, fix="") if each.connections >= asked else each for each in found)
    return tuple(sorted(enough, key=lambda capacity: capacity.connections))


def with_lifts(facts: HostFacts, nofile: int, shape: Shape, asked: int) -> Iterator[Capacity]:
    """The same, each with what makes room for twice as many as there is room for."""
    for each in capacities(facts, nofile, shape, asked):
        doubled = capacities(facts, nofile, shape, 2 * max(1, each.connections))
        yield replace(each, fix=next(one.fix for one in doubled if one.source == each.source))


def _capacity(
    resource: str, source: str, capacity: int, used: int, per_connection: float, fix: str
) -> Capacity:
    free = max(0, capacity - used)
    return Capacity(
        resource=resource,
        source=source,
        capacity=capacity,
        used=used,
        per_connection=per_connection,
        connections=min(UNLIMITED, int(free / per_connection)),
        fix=fix,
    )


def _source_ports(facts: HostFacts, shape: Shape, asked: int) -> Capacity:
    addresses = math.ceil(asked / max(1, shape.ports_per_source))
    fix = f"--alias IFACE:CIDR with {addresses:,} addresses in all ({shape.ports_per_source:,} ports each)"
    if shape.ports_per_source < ALL_PORTS and asked <= shape.source_addresses * ALL_PORTS:
        fix = f"--source-ports 1024-65535, or --sysctl auto, or {fix}"
    capacity = shape.source_addresses * shape.ports_per_source
    return _capacity("source_ports", "/proc/sys/net/ipv4/ip_local_port_range", capacity, 0, 1, fix)


def _memory(facts: HostFacts, shape: Shape, asked: int) -> Capacity:
    per_connection = bytes_per_connection(shape)
    kept = int(facts.memory_total_bytes * MEMORY_KEPT_FREE)
    used = facts.memory_total_bytes - facts.memory_available_bytes + shape.processes * PROCESS_BYTES
    need = (asked * per_connection + kept + used) / 1e9
    fix = f"a machine with {need:.1f} GB, or fewer connections"
    return _capacity(
        "memory", "MemAvailable of /proc/meminfo", facts.memory_total_bytes - kept, used, per_connection, fix
    )


def _threads(source: str, limit: int, used: int, threads: int, asked: int, each: float) -> Capacity:
    """each: of a thread, by a connection that fills it. Those that are planned may be more than are full."""
    need = used + max(threads, math.ceil(asked * each)) + 10
    fixes = {
        "/proc/sys/kernel/pid_max": pid_max_fix(need + 1000),
        "RLIMIT_NPROC": f"ulimit -u {need}",
    }
    fix = fixes.get(source, f"raise pids.max of the cgroup to {need}")
    if limit - used < threads:
        each = threads / asked
    return _capacity("threads", source, limit, used, each, fix)


def pid_max_fix(wanted: int) -> str:
    if wanted <= MOST_PIDS:
        return f"sysctl -w kernel.pid_max={wanted}"
    return f"more hosts, each with kernel.pid_max={MOST_PIDS}: a kernel takes no more"
