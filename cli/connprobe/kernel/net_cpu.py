"""Whose processor time the network takes: softirqs and system calls (probes/net_cpu.bpf.c).

User and system time of a process are /proc's. This splits them: where the kernel does not account for
interrupts by itself (CONFIG_IRQ_TIME_ACCOUNTING), a softirq is charged to whatever process it interrupted.
"""

import errno
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

from connprobe.kernel.btf import Field
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Hook, Probe, Rung

Role = Literal["target", "client"]

_USAGE = struct.Struct("6Q")
_TIMING = "4Q2I"  # struct timing
_CPU = struct.Struct(f"2Q4I{3 * _TIMING}")
_LOST = ("sleepers_full", "switches_unseen")
_SOFTIRQ = tuple(
    Hook("raw_tracepoint", name, name, ("unsigned int",)) for name in ("softirq_entry", "softirq_exit")
)
_CALLS = (
    Hook("raw_tracepoint", "sys_enter", "sys_enter", ("pt_regs", "long int")),
    Hook("raw_tracepoint", "sys_exit", "sys_exit", ("pt_regs", "long int")),
    Hook(
        "raw_tracepoint",
        "sched_switch",
        "sched_switch",
        ("_Bool", "task_struct", "task_struct", "unsigned int"),
    ),
)


def probe(system_calls: bool = True, processes: int = 1024, sleepers: int = 16384) -> Probe:
    """The probe, with room for so many watched processes, and threads of theirs asleep in a system call.

    system_calls=False leaves out what costs every system call of the machine.
    """
    with_calls = Rung(
        "softirq, system call and scheduler tracepoints",
        (*_SOFTIRQ, *_CALLS),
        (Field("task_struct", "pid", 4),),
        {"HOOK_CALLS": 1},
    )
    without = Rung("softirq tracepoints, beyond 1,024 a second one of eight timed", _SOFTIRQ, ())
    rungs = (with_calls, without) if system_calls else (without,)
    return Probe("net_cpu", rungs, {"PROCESSES": processes, "SLEEPERS": sleepers})


class Usage(NamedTuple):
    """Of one process, or of several `summed`, since it was watched.

    calls, call_s: system calls that returned, and CPU time in them: without sleep, without softirqs.
    None where they are not traced.
    net_rx_s, net_tx_s: softirqs that ran in its context. nested_s: the part of both that ran within its
    system calls; the rest interrupted it elsewhere. other_softirq_s: timers, RCU and the like.
    """

    calls: int | None
    call_s: float | None
    net_rx_s: float
    net_tx_s: float
    other_softirq_s: float
    nested_s: float | None

    @property
    def softirq_s(self) -> float:
        """Of the network."""
        return self.net_rx_s + self.net_tx_s


class Softirqs(NamedTuple):
    """Of one CPU, or of all `summed`, since the probe was attached, in whatever context."""

    net_rx_runs: int
    net_tx_runs: int
    net_rx_s: float
    net_tx_s: float
    other_s: float


class NetCpuReading(NamedTuple):
    """cpus: by number. processes: by pid. "other" (ksoftirqd, an idle CPU, processes not watched) is what
    of `softirqs` is nobody's."""

    softirqs: Softirqs
    cpus: tuple[Softirqs, ...]
    processes: dict[int, Usage]
    roles: dict[Role, Usage]
    lost: dict[str, int]

    @property
    def other_softirq_s(self) -> float:
        """Network softirqs in the context of neither target nor client."""
        total = self.softirqs.net_rx_s + self.softirqs.net_tx_s
        return max(0.0, total - sum(usage.softirq_s for usage in self.roles.values()))


class NetCpu:
    """Reads a live `net_cpu`; its methods raise OSError where the probe was torn away."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._roles: dict[int, Role] = {}
        self._unwatched: set[int] = set()
        self.traces_calls = "raw_tracepoint sys_enter" in live.hooks

    def watch(self, pid: int, role: Role) -> None:
        """From now on, all threads of that process. One for which there is no room is told in `lost`."""
        if pid in self._roles:
            self._roles[pid] = role
            return
        try:
            self._live.maps["watched"].set(struct.pack("I", pid), bytes(_USAGE.size))
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            self._unwatched.add(pid)
        else:
            self._roles[pid] = role
            self._unwatched.discard(pid)

    def unwatch(self, pid: int) -> None:
        """Forget what was counted: of a process that has ended, before its pid is another's."""
        self._live.maps["watched"].delete(struct.pack("I", pid))
        self._roles.pop(pid, None)
        self._unwatched.discard(pid)

    def read(self) -> NetCpuReading:
        maps = self._live.maps
        cells = {struct.unpack("I", key)[0]: cpus for key, cpus in maps["watched"].items()}
        processes = {pid: self._usage(cells[pid]) for pid in self._roles if pid in cells}
        roles: dict[Role, Usage] = {}
        for role in ("target", "client"):
            mine = [usage for pid, usage in processes.items() if self._roles[pid] == role]
            if mine:
                roles[role] = summed(mine)
        cpus = tuple(_softirqs(raw) for raw in maps["cpus"].get(bytes(4)) or ())
        whole = Softirqs(*map(sum, zip(*cpus, strict=True)))
        lost = self._live.lost(_LOST)
        if self._unwatched:
            lost["unwatched"] = len(self._unwatched)
        return NetCpuReading(whole, cpus, processes, roles, lost)

    def _usage(self, cpus: Sequence[bytes]) -> Usage:
        calls, call, tx, rx, other, nested = map(sum, zip(*map(_USAGE.unpack, cpus), strict=True))
        traced = self.traces_calls
        return Usage(
            calls if traced else None,
            call / 1e9 if traced else None,
            rx / 1e9,
            tx / 1e9,
            other / 1e9,
            nested / 1e9 if traced else None,
        )


def summed(usages: Sequence[Usage]) -> Usage:
    calls, call_s, rx_s, tx_s, other_s, nested_s = zip(*usages, strict=True)
    traced = None not in calls
    return Usage(
        sum(calls) if traced else None,
        sum(call_s) if traced else None,
        sum(rx_s),
        sum(tx_s),
        sum(other_s),
        sum(nested_s) if traced else None,
    )


def _softirqs(raw: bytes) -> Softirqs:
    timings = _CPU.unpack(raw)[6:]
    (tx_runs, tx), (rx_runs, rx), (_, other) = (timings[at : at + 3 : 2] for at in range(0, 18, 6))
    return Softirqs(rx_runs, tx_runs, rx / 1e9, tx / 1e9, other / 1e9)
