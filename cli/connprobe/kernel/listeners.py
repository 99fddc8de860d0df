"""What probes of listeners have in common: the fields that name a socket, and how their maps are decoded."""

import ipaddress
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from connprobe.kernel.bpf import Map
from connprobe.kernel.btf import Field
from connprobe.kernel.live import Live

ENDPOINT = struct.Struct("QIHH16s")  # struct endpoint of probes/common.bpf.h
PEAK = "2Q"  # struct peak
SOCKET_FIELDS = (
    Field("sock", "__sk_common.skc_state", 1),
    Field("sock", "__sk_common.skc_family", 2),
    Field("sock", "__sk_common.skc_num", 2),
    Field("sock", "__sk_common.skc_rcv_saddr", 4),
    Field("sock", "__sk_common.skc_v6_rcv_saddr", 16),
    Field("sock", "__sk_common.skc_net.net", 8),
    Field("sock", "sk_protocol", 2),
    Field("sock", "sk_socket", 8),
    Field("net", "net_cookie", 8),
    Field("net", "ns.inum", 4),
    Field("socket_alloc", "socket", None),
    Field("socket_alloc", "vfs_inode", None),
    Field("inode", "i_ino", 8),
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Endpoint(NamedTuple):
    """Where a socket is bound. `netns` is the inode of its network namespace: see /proc/PID/ns/net."""

    address: Address
    port: int
    netns: int
    netns_cookie: int  # unlike the inode never given to another namespace

    def __str__(self) -> str:
        address = self.address
        if isinstance(address, ipaddress.IPv6Address):
            address = (
                address.ipv4_mapped or address
            )  # as sock_diag has it here: such a socket takes IPv4 alone
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{host}:{self.port}"


def decode_endpoint(raw: bytes) -> Endpoint:
    cookie, netns, port, family, address = ENDPOINT.unpack(raw)
    packed = address if family == socket.AF_INET6 else address[:4]
    return Endpoint(ipaddress.ip_address(packed), port, netns, cookie)


def by_inode(one: Map) -> dict[int, list[bytes]]:
    """The values of a map whose key is the inode of a listener."""
    return {int.from_bytes(key, sys.byteorder): values for key, values in one.items()}


def forget(inode: int, maps: Iterable[Map]) -> None:
    """Make room: a listener that was closed never comes back under its inode."""
    for one in maps:
        one.delete(inode.to_bytes(8, sys.byteorder))


class Intervals:
    """Counts the readings, which part the peaks of one interval from those of the next."""

    def __init__(self, live: Live) -> None:
        self._map = live.maps["interval"]
        found = self._map.get(bytes(4))
        self._current = int.from_bytes(found[0], sys.byteorder) if found else 0

    def end(self) -> int:
        """Begin the next interval; the number of the one that has ended."""
        ended, self._current = self._current, self._current + 1
        self._map.set(bytes(4), struct.pack("I", self._current))
        return ended


def highest(peak: Sequence[int], interval: int) -> int:
    """The value of an unpacked struct peak in that interval, 0 without any."""
    return max(one & 0xFFFFFFFF if one >> 32 == interval else 0 for one in peak)


class Queue(Protocol):
    """One listener of a reading."""

    @property
    def closed(self) -> bool: ...


Q = TypeVar("Q", bound=Queue)


class Listeners(Generic[Q]):
    """Reads a live probe that has the maps `listeners` and `counts` and the program `refresh`.

    decode(inode, its listener, its counts of each CPU or none at all, the interval that ended).
    """

    def __init__(self, live: Live, decode: Callable[[int, bytes, Sequence[bytes], int], Q]) -> None:
        self._live, self._decode = live, decode
        self._intervals = Intervals(live)
        live.run_iterator("tcp")  # those who listen already

    def read(self) -> list[Q]:
        """All that were met, and in this network namespace all there are. One that is closed is forgotten."""
        listeners, counts = self._live.maps["listeners"], self._live.maps["counts"]
        self._live.run_iterator("tcp")
        for inode in by_inode(listeners):
            self._live.call("refresh", inode)
        interval = self._intervals.end()
        counted = by_inode(counts)
        found = []
        for inode, (raw,) in by_inode(listeners).items():
            queue = self._decode(inode, raw, counted.get(inode, ()), interval)
            found.append(queue)
            if queue.closed:
                forget(inode, (listeners, counts))
        return found
