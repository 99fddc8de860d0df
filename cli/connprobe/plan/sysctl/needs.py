"""The sysctls that a hold needs higher than this host has them, each with its arithmetic. Pure.

The figures are those of `plan.capacity`, so what is planned here is what the preflight asks for.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from connprobe.model import HoldRequest, HostFacts
from connprobe.plan.capacity import ALL_PORTS, Shape, processes_for

SPARE = 100_000  # what else runs here may open as many meanwhile

PORTS = "net/ipv4/ip_local_port_range"
_FACTS = {
    "fs/file-max": "file_max",
    "fs/nr_open": "nr_open",
    "fs/epoll/max_user_watches": "epoll_watches",
    "net/netfilter/nf_conntrack_max": "conntrack_max",
    "net/core/somaxconn": "somaxconn",
    "kernel/pid_max": "pid_max",
}


class Need(NamedTuple):
    """One key. value None: what there is, is enough."""

    key: str
    value: str | None
    arithmetic: str


def sysctl_needs(request: HoldRequest, facts: HostFacts, shape: Shape, nofile: int) -> list[Need]:
    """Every sysctl that bounds this hold on this host, changed or not."""
    count, ends = request.count, 2 if shape.both_ends else 1
    watches = 2 if shape.embedded else 1
    needs = []
    if request.source_ports is None:
        needs.append(_ports(count, facts, shape.source_addresses))
    files = facts.files_in_use + count * ends + SPARE
    needs.append(
        _more(
            "fs/file-max",
            facts.file_max,
            files,
            f"{facts.files_in_use:,} files open now + {count:,} connections x {ends} on this host + "
            f"{SPARE:,} spare = {files:,}",
        )
    )
    if facts.epoll_watches is not None:
        needed = count * watches + SPARE
        text = f"{count:,} connections x {watches} watched here + {SPARE:,} spare = {needed:,}"
        needs.append(_more("fs/epoll/max_user_watches", facts.epoll_watches, needed, text))
    if facts.conntrack_max is not None:
        used = facts.conntrack_count or 0
        needed = used + count + 10_000
        text = f"{used:,} tracked now + {count:,} connections + 10,000 spare = {needed:,}"
        needs.append(_more("net/netfilter/nf_conntrack_max", facts.conntrack_max, needed, text))
    processes = shape.processes or (2 if shape.embedded else 1) * processes_for(count, nofile)
    needed = facts.processes_in_use + processes + 1000
    text = f"{facts.processes_in_use:,} threads now + {processes:,} processes + 1,000 spare = {needed:,}"
    needs.append(_more("kernel/pid_max", facts.pid_max, needed, text))
    if shape.both_ends:
        text = f"{request.concurrency:,} handshakes at once may wait in the accept queue of a server here"
        needs.append(_more("net/core/somaxconn", facts.somaxconn, request.concurrency, text))
    return needs


def facts_after(
    facts: HostFacts, values: Mapping[str, str], reserved_inside: Callable[[int, int], int]
) -> HostFacts:
    """This host once `values`, by key, are in force. reserved_inside: reserved ports between two ports."""
    known = {_FACTS[key]: int(value) for key, value in values.items() if key in _FACTS}
    after = replace(facts, **{name: value for name, value in known.items() if name != "conntrack_max"})
    if "conntrack_max" in known and facts.conntrack_max is not None:
        after = replace(after, conntrack_max=known["conntrack_max"])
    if PORTS in values:
        low, high = (int(port) for port in values[PORTS].split())
        after = replace(after, port_low=low, port_high=high, reserved_ports=reserved_inside(low, high))
    return after


def _ports(count: int, facts: HostFacts, addresses: int) -> Need:
    """Widened at the top first, then downwards: the low ports are those that servers listen on."""
    each = math.ceil(count / max(1, addresses))
    have = facts.port_high - facts.port_low + 1 - facts.reserved_ports
    sources = f"{addresses:,} source address{'' if addresses == 1 else 'es'}"
    text = f"{count:,} connections from {sources} = {each:,} each; there are {have:,}"
    if each <= have - have % 2:
        return Need(PORTS, None, text)
    missing = max(0, each - (65535 - facts.port_low + 1 - facts.reserved_ports))
    low = max(1024, facts.port_low - missing - missing % 2)
    low -= low % 2 and low > 1024  # ends of unequal parity, or the kernel warns
    if each > ALL_PORTS:
        text += f"; {ALL_PORTS:,} is all that one address has: more addresses are needed too (--alias)"
    value = f"{low} 65535"
    return Need(PORTS, None if (low, 65535) == (facts.port_low, facts.port_high) else value, text)


def _more(key: str, have: int, need: int, text: str) -> Need:
    return Need(key, str(need) if need > have else None, f"{text}; there is {have:,}")
