"""What the server's processes take, each second, without making them take more.

Descriptors are counted by stat(2) on /proc/PID/fd, never by listing it (0.9 kB of kernel memory for each),
and PSS, for which the kernel walks the page table, is read as often as 2 % of the time allows.
"""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from connprobe.model import ProcessUse, ServerUse
from connprobe.observe.smaps import Rollup, read_rollup

TICKS, PAGE_BYTES = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
DISCOVERY_S = 5.0  # a child may stay unseen this long: finding it walks all of /proc
PSS_S = 1.0
SHARE = 0.02  # of the time, for PSS and for the walk each


class _Stat(NamedTuple):
    """From one reading of /proc/PID/stat: with RSS a third of the time that psutil takes for as much."""

    comm: bytes
    zombie: bool
    cpu_s: float
    children_cpu_s: float  # of those that were waited for
    threads: int
    started: int  # clock ticks since boot: tells a reused pid apart


class _Member:
    """One process. Raises psutil.NoSuchProcess, psutil.AccessDenied."""

    def __init__(self, pid: int) -> None:
        self.pid, self.started, self.comm, self.name = pid, _stat(pid).started, b"", ""
        self.cpu_s = 0.0
        self.ended_s = 0.0  # CPU of its children that ended, since they count
        self.ended_before_s: float | None = None
        self.rollup: Rollup | None = None
        self.rollup_at: float | None = None


class ProcessGroup:
    """The processes `roots` and, with `follow_children`, their descendants, found anew each `discovery_s`.

    Times (`now`) are the caller's, in seconds, from any monotonic clock. After each `sample`:
    - `processes`: what each live process takes;
    - `reason`: why `complete` is False, or why there was nothing to return;
    - `pss_reason`: why PSS is None; `pss_age_s`: how old its oldest part is.
    """

    def __init__(
        self, roots: Sequence[int], *, follow_children: bool = True, discovery_s: float = DISCOVERY_S
    ) -> None:
        self.processes: list[ProcessUse] = []
        self.reason: str | None = None
        self.pss_reason: str | None = None
        self.pss_age_s: float | None = None
        self._follow = follow_children
        self._members: dict[int, _Member] = {}
        self._hidden: set[int] = set()
        self._refused: set[int] = set()  # there, but never readable (hidepid=noaccess)
        self._exited_cpu_s = self._cpu_s = 0.0
        self._discovery_s, self._sampled = discovery_s, False
        self._discover_at = self._pss_at = float("-inf")
        for pid in roots:
            try:
                self._members[pid] = _Member(pid)
            except psutil.AccessDenied:
                self._refused.add(pid)
            except psutil.NoSuchProcess:
                self._hidden.add(pid)  # or it has exited: `sample` finds out

    def refresh(self) -> None:
        """The next sample looks for children and reads PSS, whatever the last time of each did cost."""
        self._discover_at = self._pss_at = float("-inf")

    def sample(self, now: float, *, pss: bool = True) -> ServerUse | None:
        """The sum over all live processes, or None once all are gone (or none may be read: see `reason`).

        CPU includes that of members that exited, up to the last sample before, and of children never seen,
        once a member has waited for them: it never goes backwards.
        pss: False leaves PSS as it was read last.
        """
        self._hidden = {pid for pid in self._hidden if _exists(pid)}
        self._refused = {pid for pid in self._refused if psutil.pid_exists(pid)}
        denied = self._hidden | self._refused
        uses: dict[int, ProcessUse] = {}
        if self._follow and now >= self._discover_at:
            self._discover(now)
        for pid, member in list(self._members.items()):
            try:
                use = self._read(member)
            except psutil.NoSuchProcess:
                use = None
            except psutil.AccessDenied:
                denied.add(pid)
                continue
            if use is None:
                self._exited_cpu_s += self._members.pop(pid).cpu_s
            else:
                uses[pid] = use
        self._sampled = True
        self._add_up()
        if pss:
            self._read_pss(now, uses)
        self.processes = [self._with_pss(use) for use in uses.values()]
        self.reason = self._why(denied)
        if not self.processes:
            return None
        return ServerUse(
            pids=tuple(sorted(uses)),
            rss_bytes=sum(use.rss_bytes for use in self.processes),
            pss_bytes=_sum([use.pss_bytes for use in self.processes]),
            cpu_s=self._cpu_s,
            fds=_sum([use.fds for use in self.processes]),
            threads=sum(use.threads for use in self.processes),
            complete=not denied,
        )

    def _add_up(self) -> None:
        """CPU is at least either sum, and what both have in it is not to be told apart.

        One has no child that came and went between two looks, the other none that nobody waited for.
        """
        seen = self._exited_cpu_s + sum(it.cpu_s for it in self._members.values())
        waited_for = sum(it.cpu_s + it.ended_s for it in self._members.values())
        # Rounded to the tick it is counted in: regrouped, a sum of floats could fall by its last bit.
        self._cpu_s = max(self._cpu_s, round(seen, 2), round(waited_for, 2))

    def _read(self, member: _Member) -> ProcessUse | None:
        """None: it has exited. psutil.NoSuchProcess likewise; psutil.AccessDenied."""
        fds, rss_bytes = _descriptors(member.pid), _rss_bytes(member.pid)
        stat = _stat(member.pid)  # read last: the pid was the same process before
        if stat.started != member.started or not stat.threads:  # none: it is being released, and all else 0
            return None
        member.cpu_s = stat.cpu_s
        if member.ended_before_s is None:
            member.ended_before_s = 0.0 if self._sampled else stat.children_cpu_s
        member.ended_s = stat.children_cpu_s - member.ended_before_s if self._follow else 0.0
        if stat.zombie:  # its CPU time is final, its memory gone
            return None
        if stat.comm != member.comm:  # exec(2), for example
            member.comm, member.name = stat.comm, psutil.Process(member.pid).name()
        return ProcessUse(
            pid=member.pid,
            name=member.name,
            rss_bytes=rss_bytes,
            pss_bytes=None,
            uss_bytes=None,
            cpu_s=member.cpu_s,
            fds=fds,
            threads=stat.threads,
        )

    def _discover(self, now: float) -> None:
        """Adds every descendant of a member, but for connprobe's own processes."""
        began = time.thread_time()
        children: dict[int, list[psutil.Process]] = {}
        for handle in psutil.process_iter(["ppid"]):
            children.setdefault(handle.info["ppid"], []).append(handle)
        waiting = list(self._members)
        while waiting:
            for handle in children.get(waiting.pop(), ()):
                if handle.pid not in self._members and handle.pid != os.getpid():
                    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        member = _Member(handle.pid)
                        if handle.is_running():  # so it is the one whose parent was read
                            self._members[handle.pid] = member
                            waiting.append(handle.pid)
        self._discover_at = now + max(self._discovery_s, (time.thread_time() - began) / SHARE)

    def _read_pss(self, now: float, pids: Iterable[int]) -> None:
        """Reads all when the last reading is paid for, and at once those that were never read."""
        due = now >= self._pss_at
        began = time.perf_counter()
        if due:
            self.pss_reason = None
        for pid in pids:
            member = self._members[pid]
            if not due and member.rollup_at is not None:
                continue
            member.rollup, member.rollup_at = None, now
            try:
                member.rollup = read_rollup(pid)
            except PermissionError:
                self.pss_reason = f"/proc/{pid}/smaps_rollup may not be read: run as root"
            except (FileNotFoundError, ProcessLookupError):
                self.pss_reason = f"process {pid} exited"
        paid = (time.perf_counter() - began) / SHARE
        self._pss_at = now + max(PSS_S, paid) if due else self._pss_at + paid
        times = [at for pid in pids if (at := self._members[pid].rollup_at) is not None]
        self.pss_age_s = now - min(times) if times else None

    def _with_pss(self, use: ProcessUse) -> ProcessUse:
        rollup = self._members[use.pid].rollup
        if rollup is None:
            return use
        return msgspec.structs.replace(use, pss_bytes=rollup.pss_bytes, uss_bytes=rollup.uss_bytes)

    def _why(self, denied: set[int]) -> str | None:
        if denied:
            return f"processes {', '.join(map(str, sorted(denied)))} may not be read: run as root"
        return None if self.processes else "all processes have exited"


def _stat(pid: int) -> _Stat:
    """Raises psutil.NoSuchProcess, psutil.AccessDenied."""
    head, _, tail = _proc(pid, "stat").rpartition(b")")  # a process may have any name
    fields = tail.split()  # from the state on, the third in proc_pid_stat(5)
    user, system, children_user, children_system = map(int, fields[11:15])
    return _Stat(
        comm=head.partition(b"(")[2],
        zombie=fields[0] in b"ZX",
        cpu_s=(user + system) / TICKS,
        children_cpu_s=(children_user + children_system) / TICKS,
        threads=int(fields[17]),
        started=int(fields[19]),
    )


def _rss_bytes(pid: int) -> int:
    """The resident set, as the kernel has counted it."""
    return int(_proc(pid, "statm").split()[1]) * PAGE_BYTES


def _proc(pid: int, name: str) -> bytes:
    """Raises psutil.NoSuchProcess, psutil.AccessDenied."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 often, and of many
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    except PermissionError:
        raise psutil.AccessDenied(pid) from None


def _exists(pid: int) -> bool:
    """Whether kill(2) knows a process that /proc does not show (mounted with hidepid=invisible)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return False  # it may be signalled, so /proc would show it: it came after


def _descriptors(pid: int) -> int | None:
    """How many are open: st_size of /proc/PID/fd since Linux 6.2, always 0 before (and then unknown)."""
    try:
        return Path(f"/proc/{pid}/fd").stat().st_size or None
    except OSError:
        return None


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
