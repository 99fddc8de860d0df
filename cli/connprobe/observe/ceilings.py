"""Everything that can stop a server: its capacity, where that was read, and the command that lifts it.

Most are asked of the server's own processes: their limits are not those of the shell that connprobe runs in.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from connprobe.model import Ceiling, HostFacts
from connprobe.observe.declared import declared_ceilings
from connprobe.observe.listeners import HIGHEST_FD, has_epoll
from connprobe.observe.memoryceilings import memory_ceilings
from connprobe.observe.procfs import ResourceLimit, read_limits, read_status, unit_of
from connprobe.observe.reading import ServerMeter, host_threads
from connprobe.observe.threadceilings import thread_ceilings

OPEN_FILES = "Max open files"
LOOKED_INTO = 16  # processes, for epoll: workers are alike


class Ceilings(NamedTuple):
    """unknown: by resource, what can stop the server too but could not be read, and why."""

    found: tuple[Ceiling, ...]
    unknown: dict[str, str]


def server_ceilings(
    meter: ServerMeter,
    facts: HostFacts,
    *,
    ports: Sequence[int] = (),
    between_requests: bool = False,
    same_host: bool = True,
    ended: bool = False,
) -> Ceilings:
    """The ceilings of the server that `meter` reads: its processes as they are now, on this host.

    Ask once it has started up, as servers raise their own limits; `used` is of this moment.
    ports: on which it is connected to. between_requests: the connections wait for no answer (bare TCP, HTTP
    keep-alive), which some servers close for want of room. same_host: this process is the client. ended: the
    server's processes will be gone when the fixes are read: those that name a process are left out.
    """
    if not meter.pids:
        return Ceilings((), {"server": meter.group.reason or "the server has no process on this host"})
    unknown: dict[str, str] = {}
    found: list[Ceiling] = []
    parts: list[tuple[str, Callable[[], Sequence[Ceiling]]]] = [
        ("nofile", lambda: _descriptors(meter, facts, ended=ended)),
        ("file_max", lambda: _files(meter, facts)),
        ("memory", lambda: memory_ceilings(meter)),
        ("epoll_watches", lambda: _epoll(meter, facts, same_host)),
        ("conntrack", lambda: _conntrack(facts)),
        ("threads", lambda: thread_ceilings(meter, facts, host_threads(), ended=ended)),
        ("server_config", lambda: declared_ceilings(meter.pids, ports, between_requests)),
    ]
    for resource, read in parts:
        try:
            found += read()
        except PermissionError as error:
            unknown[resource] = f"{error.filename} may not be read: run as root"
        except (OSError, ValueError, psutil.Error) as error:
            unknown[resource] = str(error)
    return Ceilings(tuple(found), unknown)


def _descriptors(meter: ServerMeter, facts: HostFacts, *, ended: bool) -> list[Ceiling]:
    """One process's own limit, against the fullest of them: the first that is full is the first to fail."""
    limits: dict[int, ResourceLimit] = {pid: read_limits(pid)[OPEN_FILES] for pid in meter.pids}
    pids = working(meter)
    fds = {each.pid: each.fds for each in meter.group.processes if each.fds is not None}
    pid = min(pids, key=lambda each: (_soft(limits[each]), -(fds.get(each) or 0), each))
    soft, hard = limits[pid]
    used = max((count for each, count in fds.items() if each in pids), default=None)
    many = len(pids)
    notes = []
    if many > 1:
        total = sum(_soft(limits[each]) for each in pids)
        notes.append(
            f"of each of {many} processes ({total:,} in all): it is reached when the fullest is full, and "
            "then the others may go on"
        )
    scope = f"server (pid {pid})"
    nr_open = Ceiling(
        resource="nr_open",
        scope=scope,
        capacity=facts.nr_open,
        source="/proc/sys/fs/nr_open",
        fix=f"sysctl -w fs.nr_open={_more(facts.nr_open)}",
        metric="process_fds",
        used=used,
        note="; ".join(["RLIMIT_NOFILE cannot be raised above it", *notes]),
        processes=many,
    )
    if soft is None:
        return [nr_open]
    wanted = _more(soft)
    both = limits[pid].raising(wanted)
    unit = None if ended else unit_of(pid)
    lasting = (
        f"systemctl edit {unit}: [Service] LimitNOFILE={both.replace('unlimited', 'infinity')}"
        if unit
        else f"ulimit -{'S' if hard is None or hard >= wanted else ''}n {wanted} before"
    )
    fix = f"{lasting} it starts"
    if not ended:
        fix = f"prlimit --pid {pid} --nofile={both} now; {lasting}, and a restart, to keep it"
    if wanted > facts.nr_open:
        fix = f"{nr_open.fix} first; {fix}"
    if hard is None or hard > soft:
        notes.insert(
            0, f"the soft limit; it may raise it by itself to {'any' if hard is None else f'{hard:,}'}"
        )
    elif hard < wanted:
        fix += " (the hard limit rises too: needs CAP_SYS_RESOURCE)"
    nofile = Ceiling(
        resource="nofile",
        scope=scope,
        capacity=soft,
        source=f"/proc/{pid}/limits",
        fix=fix,
        metric="process_fds",
        used=used,
        note="; ".join(notes) or None,
        processes=many,
    )
    return [nofile, nr_open]


def _files(meter: ServerMeter, facts: HostFacts) -> list[Ceiling]:
    """Of the whole host. Who has CAP_SYS_ADMIN is exempt: alloc_empty_file in fs/file_table.c."""
    if all("CAP_SYS_ADMIN" in read_status(pid).capabilities for pid in meter.pids):
        return []
    used = int(Path("/proc/sys/fs/file-nr").read_text().split()[0])
    return [
        Ceiling(
            resource="file_max",
            scope="host",
            capacity=facts.file_max,
            source="/proc/sys/fs/file-max",
            fix=f"sysctl -w fs.file-max={_more(facts.file_max)}",
            metric="files",
            used=used,
        )
    ]


def _epoll(meter: ServerMeter, facts: HostFacts, same_host: bool) -> list[Ceiling]:
    if facts.epoll_watches is None:
        return []
    pids = working(meter)
    if not any(has_epoll(pid) for pid in pids[:LOOKED_INTO]):
        raise ValueError(f"no epoll was seen among the server's first {HIGHEST_FD:,} descriptors")
    uids = {read_status(pid).uid for pid in pids}
    shared = same_host and os.getuid() in uids
    note = "not measured: it uses epoll, which takes one for each connection"
    if shared:
        note += ", and one more for the client's end, which runs as the same user"
    return [
        Ceiling(
            resource="epoll_watches",
            scope=f"user {min(uids)}" if len(uids) == 1 else "one user of the server's",
            capacity=facts.epoll_watches,
            source="/proc/sys/fs/epoll/max_user_watches",
            fix=f"sysctl -w fs.epoll.max_user_watches={_more(facts.epoll_watches)}",
            per_connection=2 if shared else 1,
            note=note,
        )
    ]


def _conntrack(facts: HostFacts) -> list[Ceiling]:
    if facts.conntrack_max is None:
        return []
    return [
        Ceiling(
            resource="conntrack",
            scope="host",
            capacity=facts.conntrack_max,
            source="/proc/sys/net/netfilter/nf_conntrack_max",
            fix=f"sysctl -w net.netfilter.nf_conntrack_max={_more(facts.conntrack_max)}, or exempt this "
            "traffic: nft add rule with `notrack`",
            metric="conntrack",
            used=facts.conntrack_count,
        )
    ]


def working(meter: ServerMeter) -> list[int]:
    """Without masters: they hand their listener to workers, and have limits of their own.

    A parent that took a tenth of what the busiest took is no mere master. OSError: one has ended meanwhile.
    """
    parents = {read_status(pid).parent for pid in meter.pids}
    grown = meter.fds_grown()
    busy = max(1, max(grown.values(), default=0) / 10)
    return [pid for pid in meter.pids if pid not in parents or grown.get(pid, 0) >= busy]


def _soft(limit: ResourceLimit) -> int:
    return limit.soft if limit.soft is not None else 1 << 62


def _more(capacity: int) -> int:
    return min(2 * capacity, (1 << 63) - 1)
