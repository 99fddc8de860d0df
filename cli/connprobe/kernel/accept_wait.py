"""How long connections wait in the accept queue of each listener (probes/accept_wait.bpf.c)."""

import platform
import struct
import sys
import time
from typing import NamedTuple

from connprobe.kernel.btf import Field
from connprobe.kernel.listeners import (
    ENDPOINT,
    PEAK,
    SOCKET_FIELDS,
    Endpoint,
    Intervals,
    by_inode,
    decode_endpoint,
    forget,
    highest,
)
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Hook, Probe, Rung
from connprobe.plan.histogram import BUCKETS, percentile

_LISTENER = struct.Struct(f"{ENDPOINT.size}sQ")
_WAITS = struct.Struct(f"2Q{PEAK}{BUCKETS}I")
_NONE = [bytes(_WAITS.size)]
_GONE = struct.Struct("2Q")
_LOST = ("waiting_full", "listeners_full", "unknown_accepts")
_SUSPICIOUS_S = 1.0  # so long a wait may be one whose end no hook showed
_CHECKS = 1024  # of such, in one reading: 1 to 2 ms
_FIELDS = (
    *SOCKET_FIELDS,
    Field("inet_sock", "inet_sport", 2),
    Field("task_struct", "files", 8),
    Field("files_struct", "fdt", 8),
    Field("fdtable", "fd", 8),
    Field("file", "private_data", 8),
    Field("socket", "sk", 8),
)
# Of each architecture: the registers with a system call's first argument and number; accept and accept4
_X86 = ((Field("pt_regs", "di", 8), Field("pt_regs", "orig_ax", 8)), 43, 288)
_ARCHITECTURES = {
    "x86_64": _X86,
    "aarch64": ((Field("pt_regs", "orig_x0", 8), Field("pt_regs", "syscallno", 4)), 202, 242),
}
_SET_STATE = Hook("raw_tracepoint", "inet_sock_set_state", "set_state", ("sock", "int", "int"), typed=True)
_CHECK = Hook("call", "check", "check")


def probe(waiting: int = 65536, listeners: int = 1024) -> Probe:
    """The probe, with room for so many connections that wait, and so many listeners."""
    registers, accept, accept4 = _ARCHITECTURES.get(platform.machine(), _X86)
    returns = (
        Hook("tracepoint", f"syscalls:sys_exit_{name}", "accept_returns") for name in ("accept", "accept4")
    )
    return Probe(
        "accept_wait",
        (
            Rung(
                "system call tracepoints of accept and accept4",
                (_SET_STATE, _CHECK, *returns),
                (*_FIELDS, *registers),
                {"HOOK_SYSCALLS": 1},
            ),
            Rung(
                "raw tracepoint sys_exit",
                (_SET_STATE, _CHECK, Hook("raw_tracepoint", "sys_exit", "sys_exit", ("pt_regs",))),
                (*_FIELDS, *registers),
                {"HOOK_SYS_EXIT": 1, "SYS_ACCEPT": accept, "SYS_ACCEPT4": accept4},
            ),
        ),
        {"WAITING": waiting, "LISTENERS": listeners},
    )


class AcceptWait(NamedTuple):
    """The connections that one listener's accept calls took, since the probe was attached."""

    at: Endpoint
    inode: int
    accepted: int
    total_us: int
    longest_us: int  # since the reading before
    waits: tuple[int, ...]  # microseconds, by bucket of plan/histogram.py
    closed: bool  # a last reading: it will not be given again

    def percentile_ms(self, fraction: float) -> float | None:
        found = percentile(self.waits, fraction)
        return None if found is None else found / 1000


class Vanished(NamedTuple):
    """Connections to `at` that left the queue without an accept that was seen: they have no wait.

    unseen: a process has got them in another way (io_uring, MPTCP). abandoned: they were reset while they
    waited, or their listener was closed.
    """

    at: Endpoint
    unseen: int
    abandoned: int


class Reading(NamedTuple):
    listeners: tuple[AcceptWait, ...]
    vanished: tuple[Vanished, ...]
    waiting: int  # of all listeners, now
    lost: dict[str, int]  # what could not be counted, by cause; empty where all was


class AcceptWaits:
    """Reads a live `accept_wait`. `read` may raise OSError where the probe was torn away."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._intervals = Intervals(live)

    def read(self) -> Reading:
        maps = self._live.maps
        waiting = self._check()
        interval = self._intervals.end()
        counts = by_inode(maps["waits"])
        found = []
        for inode, (raw,) in by_inode(maps["listeners"]).items():
            at, closed = _LISTENER.unpack(raw)
            accepted, total_us, odd, even, *waits = _WAITS.unpack(counts.get(inode, _NONE)[0])
            wait = AcceptWait(
                at=decode_endpoint(at),
                inode=inode,
                accepted=accepted,
                total_us=total_us,
                longest_us=highest((odd, even), interval),
                waits=tuple(waits),
                closed=bool(closed),
            )
            found.append(wait)
            if closed:
                forget(inode, (maps["listeners"], maps["waits"]))
        found.sort(key=lambda wait: (wait.at.netns, wait.at.port, wait.inode))
        vanished = sorted(
            (Vanished(decode_endpoint(key), *_GONE.unpack(raw)) for key, (raw,) in maps["vanished"].items()),
            key=lambda each: (each.at.netns, each.at.port, str(each.at)),
        )
        return Reading(tuple(found), tuple(vanished), waiting, self._live.lost(_LOST))

    def _check(self) -> int:
        """Look after those that have waited for long; how many wait."""
        entries = self._live.maps["waiting"].items()
        before = time.monotonic_ns() - int(_SUSPICIOUS_S * 1e9)
        since = ((int.from_bytes(raw, sys.byteorder), child) for child, (raw,) in entries)
        for _, child in sorted(one for one in since if one[0] < before)[:_CHECKS]:
            self._live.call("check", int.from_bytes(child, sys.byteorder))
        return len(entries)
