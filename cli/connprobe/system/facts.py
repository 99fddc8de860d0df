"""What this host allows, read before a plan is made: each figure from the file that its field names, or
by trying where no file says it.
"""

import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path

from connprobe import cgroup
from connprobe.errors import RunFailed
from connprobe.model import HostFacts
from connprobe.plan.capabilities import effective_capabilities
from connprobe.system.addresses import local_addresses

_EXEMPT = ("CAP_SYS_RESOURCE", "CAP_SYS_ADMIN")  # from RLIMIT_NPROC, as is uid 0: copy_process, kernel/fork.c


def read_facts() -> HostFacts:
    """Everything about this host that a plan depends on.

    Raises RunFailed naming the file that is missing or cannot be understood, where None would be a lie.
    """
    meminfo, status = _read("/proc/meminfo"), _read("/proc/self/status")
    capabilities = effective_capabilities(status)
    nofile_soft, nofile_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    port_low, port_high = _numbers("/proc/sys/net/ipv4/ip_local_port_range", 2)
    reserved = _optional("/proc/sys/net/ipv4/ip_local_reserved_ports") or ""
    memory, pids = cgroup.tightest("memory"), cgroup.tightest("pids")
    nproc = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    exempt = os.getuid() == 0 or any(name in capabilities for name in _EXEMPT)
    tracked = tracked_connections()
    return HostFacts(
        kernel=os.uname().release,
        cpus=len(os.sched_getaffinity(0)),
        uid=os.geteuid(),
        capabilities=capabilities,
        memory_total_bytes=meminfo_bytes(meminfo, "MemTotal"),
        memory_available_bytes=meminfo_bytes(meminfo, "MemAvailable"),
        cgroup_memory_max_bytes=memory.limit if memory else None,
        cgroup_memory_current_bytes=memory.used if memory else None,
        nofile_soft=nofile_soft,
        nofile_hard=nofile_hard,
        nr_open=_numbers("/proc/sys/fs/nr_open", 1)[0],
        file_max=_numbers("/proc/sys/fs/file-max", 1)[0],
        files_in_use=_numbers("/proc/sys/fs/file-nr", 3)[0],
        port_low=port_low,
        port_high=port_high,
        reserved_ports=reserved_inside(reserved, port_low, port_high),
        epoll_watches=_optional_number("/proc/sys/fs/epoll/max_user_watches"),
        conntrack_max=tracked[0] if tracked else None,
        conntrack_count=tracked[1] if tracked else None,
        somaxconn=_numbers("/proc/sys/net/core/somaxconn", 1)[0],
        process_limit=None if exempt or nproc == resource.RLIM_INFINITY else nproc,
        processes_in_use=threads_in_use(_read("/proc/loadavg")),
        user_processes_in_use=threads_of(os.getuid()),
        pid_max=_numbers("/proc/sys/kernel/pid_max", 1)[0],
        cgroup_pids_max=pids.limit if pids else None,
        cgroup_pids_current=pids.used if pids else None,
        addresses=local_addresses(),
        may_unshare=re.search(r"^Seccomp:\t2$", status, re.MULTILINE) is None or _unshares(),
    )


def _unshares() -> bool:
    """Tried in a process of its own: only there it changes nothing."""
    attempt = "import ctypes, sys; sys.exit(bool(ctypes.CDLL(None).unshare(0x400)))"  # CLONE_FILES
    command = [sys.executable, "-I", "-S", "-c", attempt]
    try:
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL, timeout=30).returncode == 0
    except (OSError, subprocess.SubprocessError):  # no room for a process: whoever needs threads tries again
        return True


def raise_nofile(wanted: int | None = None) -> tuple[int, int]:
    """Raise RLIMIT_NOFILE's soft limit to the hard one, and give (soft, hard) as they are afterwards.

    With `wanted` the hard limit goes up to it first, but not above fs.nr_open, where the process may
    (CAP_SYS_RESOURCE). Never lowers either, and never raises: the result says what was possible.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goals = [(hard, hard)]
    if wanted is not None and wanted > hard:
        higher = min(wanted, _optional_number("/proc/sys/fs/nr_open") or wanted)
        if higher > hard:
            goals.insert(0, (higher, higher))
    for goal in goals:
        if goal == (soft, hard):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, goal)
        except (ValueError, OSError):  # not allowed, or nr_open was lowered below the hard limit
            continue
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def tracked_connections() -> tuple[int, int] | None:
    """(limit, in use) of connection tracking, or None where this network namespace tracks nothing.

    The module may be loaded while no rule asks for it, and then nothing counts: so it is tried, by
    holding one connection to ourselves and reading whether any is tracked.
    """
    limit = _optional_number("/proc/sys/net/netfilter/nf_conntrack_max")
    if limit is None:
        return None
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        count = _optional_number("/proc/sys/net/netfilter/nf_conntrack_count")
    return (limit, count) if count else None


def meminfo_bytes(text: str, name: str) -> int:
    """A figure of /proc/meminfo in bytes. Raises RunFailed where it is missing."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise RunFailed(f"/proc/meminfo has no figure {name}")
    return int(found[1]) * 1024


def reserved_inside(text: str, low: int, high: int) -> int:
    """How many ports of `ip_local_reserved_ports` ("8080,9148-9150") lie in low..high, both included."""
    reserved: set[int] = set()
    for part in text.replace("\n", "").split(","):
        first, dash, last = part.strip().partition("-")
        if first:
            reserved.update(range(int(first), int(last if dash else first) + 1))
    return sum(low <= port <= high for port in reserved)


def threads_in_use(text: str) -> int:
    """The total of /proc/loadavg's fourth field ("1/96"): all threads that the kernel knows."""
    fields = text.split()
    if len(fields) < 4 or not re.fullmatch(r"\d+/\d+", fields[3]):
        raise RunFailed(f"/proc/loadavg reads {text.strip()!r}: no thread count")
    return int(fields[3].partition("/")[2])


def threads_of(uid: int) -> int:
    """Threads of the processes whose real user that is, as far as they can be seen from here."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        status = _optional(f"{process}/status") or ""  # it may have ended
        user = re.search(r"^Uid:\s*(\d+)", status, re.MULTILINE)
        threads = re.search(r"^Threads:\s*(\d+)", status, re.MULTILINE)
        if user and threads and int(user[1]) == uid:
            found += int(threads[1])
    return found


def _numbers(path: str, count: int) -> list[int]:
    words = _read(path).split()
    if len(words) != count or not all(word.isdecimal() for word in words):
        raise RunFailed(f"{path} reads {' '.join(words)!r}: {count} numbers were expected")
    return [int(word) for word in words]


def _optional_number(path: str) -> int | None:
    text = _optional(path)
    return int(text) if text and text.strip().isdecimal() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise RunFailed(f"{path} cannot be read: {error.strerror}", fix="mount -t proc proc /proc") from error


def _optional(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
