"""How many threads, processes and mappings a server may have: what stops one that spends a thread on each
connection. Five limits count the same threads, over different sets of processes.
"""

from collections.abc import Iterable
from pathlib import Path

import psutil

from connprobe.model import Ceiling, HostFacts
from connprobe.observe.procfs import read_limits, read_status, unit_of
from connprobe.observe.reading import ServerMeter, count_maps
from connprobe.plan.capacity import pid_max_fix

_EXEMPT = ("CAP_SYS_RESOURCE", "CAP_SYS_ADMIN")  # from RLIMIT_NPROC, as is uid 0: copy_process, kernel/fork.c
_RESOURCE = "threads"


def thread_ceilings(
    meter: ServerMeter, facts: HostFacts, threads_of_host: int, *, ended: bool = False
) -> list[Ceiling]:
    """ended: as in server_ceilings.

    OSError, ValueError: a file that every kernel has cannot be read, or understood.
    """
    found = [_cgroup(meter), _user(meter, ended=ended), _maps(meter)]
    for name, capacity in (("pid_max", facts.pid_max), ("threads-max", _number("threads-max"))):
        found.append(
            Ceiling(
                resource=_RESOURCE,
                scope="host",
                capacity=capacity,
                source=f"/proc/sys/kernel/{name}",
                fix=pid_max_fix(2 * capacity)
                if name == "pid_max"
                else f"sysctl -w kernel.{name}={2 * capacity}",
                metric="host_threads",
                used=threads_of_host,
                note="every thread of the host takes one",
            )
        )
    return [each for each in found if each is not None]


def _cgroup(meter: ServerMeter) -> Ceiling | None:
    bound = meter.tasks
    if bound is None:
        return None
    unit = unit_of(meter.pids[0])
    more = 2 * bound.limit
    fix = f"echo {more} > {bound.file}"
    if unit is not None and bound.place.name.endswith(f"/{unit}"):
        fix = f"systemctl set-property {unit} TasksMax={more}"
    return Ceiling(
        resource=_RESOURCE,
        scope=f"cgroup {bound.place.name}",
        capacity=bound.limit,
        source=str(bound.file),
        fix=fix,
        metric="pids",
        used=bound.used,
        note="processes and threads alike",
    )


def _user(meter: ServerMeter, *, ended: bool) -> Ceiling | None:
    """RLIMIT_NPROC counts every thread of the user, and not only the server's: those take from its room."""
    bound: list[tuple[int, int, int]] = []
    limits = {pid: read_limits(pid)["Max processes"] for pid in meter.pids}
    for pid in meter.pids:
        status = read_status(pid)
        soft = limits[pid].soft
        if soft is not None and status.uid != 0 and not set(_EXEMPT) & set(status.capabilities):
            bound.append((soft, pid, status.uid))
    if not bound:
        return None
    limit, pid, uid = min(bound)
    others = threads_of_user(uid, besides=meter.pids)
    own = sum(each.threads for each in meter.group.processes)
    unit = None if ended else unit_of(pid)
    both = limits[pid].raising(2 * limit)
    lasting = f"ulimit -Su {2 * limit}"
    if unit:
        lasting = f"systemctl edit {unit}: [Service] LimitNPROC={both.replace('unlimited', 'infinity')}"
    return Ceiling(
        resource=_RESOURCE,
        scope=f"user {uid}",
        capacity=max(0, limit - others),
        source=f"Max processes of /proc/{pid}/limits",
        fix=f"{lasting} before it starts"
        if ended
        else f"prlimit --pid {pid} --nproc={both} now; {lasting}, and a restart, to keep it",
        metric="threads",
        used=own,
        note=f"RLIMIT_NPROC {limit:,}, less {others:,} threads of the user's other processes",
    )


def threads_of_user(uid: int, besides: Iterable[int]) -> int:
    """Threads of every process that runs as the real user `uid`, but for `besides` (source: /proc)."""
    left_out = set(besides)
    total = 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids, threads = process.info["uids"], process.info["num_threads"]
        if process.pid not in left_out and uids is not None and uids.real == uid:
            total += threads or 0
    return total


def _maps(meter: ServerMeter) -> Ceiling | None:
    largest = max(meter.group.processes, key=lambda each: each.rss_bytes).pid
    capacity = int(Path("/proc/sys/vm/max_map_count").read_text())
    try:
        used = count_maps(largest)
    except OSError:
        used = None
    return Ceiling(
        resource="max_map_count",
        scope=f"server (pid {largest})",
        capacity=capacity,
        source="/proc/sys/vm/max_map_count",
        fix=f"sysctl -w vm.max_map_count={2 * capacity}",
        metric="maps",
        used=used,
        note="a thread takes two: its stack and the guard page below it",
    )


def _number(name: str) -> int:
    return int(Path(f"/proc/sys/kernel/{name}").read_text())
