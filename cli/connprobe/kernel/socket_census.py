"""All TCP sockets of a network namespace, counted by the kernel itself (probes/socket_census.bpf.c).

A census looks at every socket, about a second for a million: it is for plateaus. It says how long it took.
"""

import ctypes
import os
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from connprobe.kernel.btf import Field
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Hook, Probe, Rung

OWN_NAMESPACE = Path("/proc/thread-self/ns/net")
SHARE = 0.05  # of the sampler's time that censuses may take
_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.setns comes with Python 3.12
_CELL = struct.Struct("2Q4q")
_LOST = ("groups_full",)
_SIDES: tuple[Literal["server", "client"], ...] = ("server", "client")
# include/net/tcp_states.h, as ss(8) names them
_STATES = (
    "",
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "UNCONN",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "NEW-SYN-RECV",
    "BOUND-INACTIVE",
    "",
    "",
)
_libc = ctypes.CDLL(None, use_errno=True)


def probe(groups: int = 4096) -> Probe:
    """The probe, with room for so many (side, port, state, family) groups."""
    return Probe(
        "socket_census",
        (
            Rung(
                "iterator tcp",
                (Hook("iter", "tcp", "bpf_iter__tcp"),),
                (
                    Field("sock", "__sk_common.skc_state", 1),
                    Field("sock", "__sk_common.skc_family", 2),
                    Field("sock", "__sk_common.skc_portpair", 4),
                    Field("sock", "__sk_common.skc_addrpair", 8),
                    Field("sock", "sk_socket", 8),
                    Field("sock", "sk_forward_alloc", 4),
                    Field("sock", "sk_wmem_queued", 4),
                    Field("sock", "sk_wmem_alloc", 4),
                    Field("sock", "sk_backlog.rmem_alloc", 4),
                ),
            ),
        ),
        {"GROUPS": groups},
    )


class Group(NamedTuple):
    """Sockets that have all this in common. The bytes are sums, as sock_diag's INET_DIAG_SKMEMINFO has them.

    side: "server" where somebody listens on the local port (the listener itself too), else "client".
    port: the server's, so the remote one of clients; None for those that found no room in the map.
    unaccepted: established, and still in an accept queue.
    rmem_bytes: received and not read yet. wmem_queued_bytes: not acknowledged yet, or not sent; of these
    wmem_bytes in a queue of the device. All with the kernel's overhead. forward_alloc_bytes: taken from
    tcp_mem ahead of need.
    """

    side: Literal["server", "client"] | None
    port: int | None
    ip_version: Literal[4, 6]  # of the socket: a listener on [::] has children of 6 for clients of 4
    state: str
    sockets: int
    unaccepted: int
    forward_alloc_bytes: int
    wmem_queued_bytes: int
    rmem_bytes: int
    wmem_bytes: int


class Census(NamedTuple):
    netns: int  # the inode of the network namespace
    groups: tuple[Group, ...]
    duration_s: float
    lost: dict[str, int]  # sockets without a group of their own, by cause; empty where all had one

    @property
    def sockets(self) -> int:
        return sum(group.sockets for group in self.groups)

    @property
    def rest_s(self) -> float:
        """How long to wait for the next, so that censuses take SHARE of the time."""
        return self.duration_s * (1 / SHARE - 1)


class SocketCensus:
    """Takes censuses by a live `socket_census`; one at a time."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._number = 0

    def take(self, netns: Path = OWN_NAMESPACE) -> Census:
        """Of the sockets in that namespace ("/proc/PID/ns/net"). Another's needs CAP_SYS_ADMIN; OSError."""
        if netns == OWN_NAMESPACE:
            return self._take()
        with ThreadPoolExecutor(1) as thread:  # a namespace is a thread's, and this one ends
            return thread.submit(self._take_in, netns).result()

    def _take_in(self, netns: Path) -> Census:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(fd, _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(netns))
        finally:
            os.close(fd)
        return self._take()

    def _take(self) -> Census:
        maps = self._live.maps
        rest = struct.pack(f"{_CELL.size}x")
        for key, _ in maps["groups"].items():
            maps["groups"].delete(key)
        for key, (value,) in maps["rest"].items():
            if value != rest:
                maps["rest"].set(key, rest)
        maps["lost"].set(bytes(4), bytes(8))
        self._number += 1
        maps["census"].set(bytes(4), struct.pack("I", self._number))
        began = time.perf_counter()
        self._live.run_iterator("tcp", whole=True)
        took = time.perf_counter() - began
        groups = [_group(key, value) for key, (value,) in maps["groups"].items()]
        groups += [_ungrouped(key, value) for key, (value,) in maps["rest"].items() if value != rest]
        return Census(OWN_NAMESPACE.stat().st_ino, tuple(groups), took, self._live.lost(_LOST))


def _group(raw: bytes, value: bytes) -> Group:
    port, state, v6, side = struct.unpack("H2Bi", raw)
    return Group(_SIDES[side], port, 6 if v6 else 4, _STATES[state], *_CELL.unpack(value))


def _ungrouped(raw: bytes, value: bytes) -> Group:
    index = int.from_bytes(raw, sys.byteorder)
    return Group(None, None, 6 if index & 1 else 4, _STATES[index >> 1], *_CELL.unpack(value))
