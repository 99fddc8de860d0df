"""How long connections wait in the accept queue of each listener (probes/accept_wait.bpf.c)."""

import platform
import struct
import sys
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
_LOST = ("listeners_full", "unknown_accepts")
_FIELDS = (
    *SOCKET_FIELDS,
    Field("inet_sock", "inet_sport", 2),
    Field("tcp_sock", "rcvq_space.time", 8),
    Field("socket", "sk", 8),
)
_DESCRIPTOR_FIELDS = (
    Field("task_struct", "files", 8),
    Field("files_struct", "fdt", 8),
    Field("fdtable", "fd", 8),
    Field("file", "private_data", 8),
)
# Of each architecture: the registers with a system call's first argument and number; accept and accept4
_X86 = ((Field("pt_regs", "di", 8), Field("pt_regs", "orig_ax", 8)), 43, 288)
_ARCHITECTURES = {
    "x86_64": _X86,
    "aarch64": ((Field("pt_regs", "orig_x0", 8), Field("pt_regs", "syscallno", 4)), 202, 242),
}
_SET_STATE = Hook("raw_tracepoint", "inet_sock_set_state", "set_state", ("sock", "int", "int"), typed=True)


def _by_functions(*more: str) -> Rung:
    """more: the types of their arguments behind both sockets; these became one struct in Linux 6.10."""
    arguments = ("socket", "socket", *more)
    returns = (
        Hook("fexit", name, name, arguments, typed=True)
        for name in ("inet_accept", "mptcp_stream_accept")  # this one where clients of it speak plain TCP
    )
    name = f"fexit of inet_accept and mptcp_stream_accept, of {len(arguments)} arguments"
    defines = {"HOOK_FEXIT": 1, "RESULT": len(arguments)}
    return Rung(name, (_SET_STATE, *returns), _FIELDS, defines)


def probe(listeners: int = 1024) -> Probe:
    """The probe, with room for so many listeners."""
    registers, accept, accept4 = _ARCHITECTURES.get(platform.machine(), _X86)
    returns = (
        Hook("tracepoint", f"syscalls:sys_exit_{name}", "accept_returns") for name in ("accept", "accept4")
    )
    return Probe(
        "accept_wait",
        (
            *(_by_functions(*arguments) for arguments in (("proto_accept_arg",), ("int", "_Bool"))),
            Rung(
                "system call tracepoints of accept and accept4",
                (_SET_STATE, *returns),
                (*_FIELDS, *_DESCRIPTOR_FIELDS, *registers),
                {"HOOK_SYSCALLS": 1},
            ),
            Rung(
                "raw tracepoint sys_exit",
                (_SET_STATE, Hook("raw_tracepoint", "sys_exit", "sys_exit", ("pt_regs",))),
                (*_FIELDS, *_DESCRIPTOR_FIELDS, *registers),
                {"HOOK_SYS_EXIT": 1, "SYS_ACCEPT": accept, "SYS_ACCEPT4": accept4},
            ),
        ),
        {"LISTENERS": listeners},
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


class Abandoned(NamedTuple):
    """Connections to `at` that were reset while they waited, or whose listener was closed.

    One that was reset stays in the queue, and its accept is counted like any other.
    """

    at: Endpoint
    connections: int


class Reading(NamedTuple):
    listeners: tuple[AcceptWait, ...]
    abandoned: tuple[Abandoned, ...]
    lost: dict[str, int]  # what could not be counted, by cause; empty where all was


class AcceptWaits:
    """Reads a live `accept_wait`. `read` may raise OSError where the probe was torn away."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._intervals = Intervals(live)

    def read(self) -> Reading:
        maps = self._live.maps
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
        abandoned = sorted(
            (
                Abandoned(decode_endpoint(key), int.from_bytes(raw, sys.byteorder))
                for key, (raw,) in maps["abandoned"].items()
            ),
            key=lambda each: (each.at.netns, each.at.port, str(each.at)),
        )
        return Reading(tuple(found), tuple(abandoned), self._live.lost(_LOST))
