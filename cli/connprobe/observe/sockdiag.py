"""What the kernel says over netlink: its LISTEN sockets, and whether an address is this host's own.

sock_diag picks by state and port inside the kernel, so it answers at once beside 800,000 connections.
Spoken by hand: two requests of one page each, where a netlink library costs megabytes of the memory
that is being measured.
"""

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_LISTEN = 1, 8, 10
INET_DIAG_SKMEMINFO, SK_MEMINFO_DROPS = 7, 8  # the attribute, and the index of sk_drops in it
INET_DIAG_SKV6ONLY = 11  # since Linux 4.4, sent for LISTEN sockets of AF_INET6 unasked
RTM_GETROUTE, RTN_LOCAL = 26, 2
RTA_DST, RTA_OIF = 1, 4
ANSWER_TIMEOUT_S = 5.0

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_DIAG_REQUEST = struct.Struct("=BBBxI2s46x")  # inet_diag_req_v2, of whose id only idiag_sport is filled
_DIAG_ANSWER = struct.Struct("=B3xH2x16s16xIQ4xIIII")  # inet_diag_msg; idiag_sport is in network byte order
_STATE = 1  # where idiag_state is in it
_ONE = struct.Struct("=BBBxI2s2s16s16sIII")  # inet_diag_req_v2 with the whole inet_diag_sockid
NO_COOKIE = 0xFFFFFFFF
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ListenSocket(NamedTuple):
    """A socket in LISTEN. None: the source does not tell; `interface` 0 means any.

    depth: established connections that wait to be accepted. One more than `backlog` may. drops: sk_drops,
    packets that it dropped since it was made, modulo 2^32; plan/acceptqueue.py says what is among them.
    """

    address: Address  # a v4-mapped one is given as IPv4
    family: int  # AF_INET or AF_INET6, of the socket and not of the address
    v6only: bool | None
    interface: int
    uid: int  # who made it
    inode: int
    port: int = 0
    depth: int | None = None
    backlog: int | None = None
    drops: int | None = None
    cookie: int | None = None  # the kernel gives it to no other socket, unlike the inode


def listen_sockets(port: int = 0) -> list[ListenSocket]:
    """The LISTEN sockets on `port` (0: any) of this network namespace, from sock_diag. OSError: refused."""
    found = []
    wanted, states = 1 << (INET_DIAG_SKMEMINFO - 1), 1 << TCP_LISTEN
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, wanted, states, port.to_bytes(2, "big"))
        for answer in _ask(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request):
            kind, number, raw, interface, cookie, depth, backlog, uid, inode = _DIAG_ANSWER.unpack_from(
                answer
            )
            attributes = _attributes(answer[_DIAG_ANSWER.size :])
            found.append(
                ListenSocket(
                    address=_address(kind, raw),
                    family=kind,
                    v6only=bool(attributes.get(INET_DIAG_SKV6ONLY, b"\0")[0]),
                    interface=interface,
                    uid=uid,
                    inode=inode,
                    port=socket.ntohs(number),
                    depth=depth,
                    backlog=backlog,
                    drops=_drops(attributes.get(INET_DIAG_SKMEMINFO, b"")),
                    cookie=cookie,
                )
            )
    return found


def connected(ports: Iterable[int], *, accepted: bool = False) -> int:
    """Connections that are open at these local ports, in this network namespace; 1 s for a million.

    Those count too that the other end has closed and this one has not (CLOSE_WAIT). OSError: refused.
    accepted: without those that wait in an accept queue: they have no inode yet.
    """
    states = 1 << TCP_ESTABLISHED | 1 << TCP_CLOSE_WAIT
    return sum(
        1
        for port in ports
        for family in (socket.AF_INET, socket.AF_INET6)
        for answer in _ask(
            NETLINK_SOCK_DIAG,
            SOCK_DIAG_BY_FAMILY,
            NLM_F_DUMP,
            _DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, port.to_bytes(2, "big")),
        )
        if not accepted or _DIAG_ANSWER.unpack_from(answer)[-1]
    )


def unread_bytes(local: tuple[str, int], peer: tuple[str, int]) -> int | None:
    """What has come to the connected TCP socket `local` of this network namespace and was not read yet.

    Asked of one socket by its addresses, in some 20 us (rcv_nxt - copied_seq: tcp_diag_get_info in
    net/ipv4/tcp_diag.c). None: there is no such socket here, or no longer: the kernel answers with the one
    that listens there then (inet_diag_find_one_icsk), whose figure is its accept queue. OSError: refused.
    """
    here, there = (ipaddress.ip_address(host.partition("%")[0]) for host in (local[0], peer[0]))
    family = socket.AF_INET if here.version == 4 else socket.AF_INET6
    ports = [number.to_bytes(2, "big") for number in (local[1], peer[1])]
    request = _ONE.pack(
        family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF, *ports, here.packed, there.packed, 0, NO_COOKIE, NO_COOKIE
    )
    try:
        for answer in _ask(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, 0, request):
            unread: int = _DIAG_ANSWER.unpack_from(answer)[5]
            return None if answer[_STATE] == TCP_LISTEN else unread
    except _Refused as error:
        if error.errno != errno.ENOENT:
            raise
    return None


def listen_sockets_from_proc(port: int = 0, pid: int | None = None) -> list[ListenSocket]:
    """The same from /proc/PID/net/tcp and tcp6, in the network namespace of `pid` (None: our own).

    They name neither the interface nor IPV6_V6ONLY, backlog and drops. Both files show LISTEN sockets before
    all others, so no connection is read.
    """
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        path = Path("/proc", "self" if pid is None else str(pid), "net", name)
        if not path.exists():  # IPv6 switched off
            continue
        with path.open() as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                if int(fields[3], 16) != TCP_LISTEN:
                    break
                host, number = fields[1].split(":")
                if port not in (0, int(number, 16)):
                    continue
                words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
                raw = struct.pack(f"={len(words)}I", *words)
                found.append(
                    ListenSocket(
                        address=_address(family, raw),
                        family=family,
                        v6only=None if family == socket.AF_INET6 else False,
                        interface=0,
                        uid=int(fields[7]),
                        inode=int(fields[9]),
                        port=int(number, 16),
                        depth=int(fields[4].split(":")[1], 16),
                    )
                )
    return found


def is_local(address: Address, interface: int = 0) -> bool:
    """Whether the routing table delivers `address` on this host (source: RTM_GETROUTE, type local).

    Binding to it would say yes to every address while net.ipv4.ip_nonlocal_bind is set, so that is asked
    only where netlink is refused.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    request = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    request += _ATTRIBUTE.pack(4 + len(address.packed), RTA_DST) + address.packed
    if interface:
        request += _ATTRIBUTE.pack(8, RTA_OIF) + struct.pack("=I", interface)
    try:
        return any(_ROUTE.unpack_from(r)[7] == RTN_LOCAL for r in _ask(0, RTM_GETROUTE, 0, request))
    except _Refused:
        return False  # no route at all
    except OSError:
        return _binds(family, address, interface)


def _binds(family: socket.AddressFamily, address: Address, interface: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0) if address.version == 4 else (str(address), 0, 0, interface))
    except OSError:
        return False
    return True


class _Refused(OSError):
    """The kernel answered the request with an error."""


def _ask(protocol: int, kind: int, flags: int, request: bytes) -> Iterator[bytes]:
    """The payload of each message the kernel answers with. OSError: no netlink; _Refused: its error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        netlink.settimeout(ANSWER_TIMEOUT_S)
        header = _HEADER.pack(_HEADER.size + len(request), kind, NLM_F_REQUEST | flags, 1, 0)
        netlink.sendto(header + request, (0, 0))
        while True:
            data = netlink.recv(1 << 16)
            while data:
                length, answer, _, _, _ = _HEADER.unpack_from(data)
                payload, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                    if code:
                        raise _Refused(code, os.strerror(code))
                    return
                yield payload
            if not flags:  # a plain request is answered by one message
                return


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind], data = data[_ATTRIBUTE.size : length], data[(length + 3) & ~3 :]
    return found


def _drops(memory: bytes) -> int | None:
    """sk_drops, since Linux 4.7 at the end of what INET_DIAG_SKMEMINFO tells."""
    words = [value for (value,) in struct.iter_unpack("=I", memory[: len(memory) & ~3])]
    return words[SK_MEMINFO_DROPS] if len(words) > SK_MEMINFO_DROPS else None


def _address(family: int, raw: bytes) -> Address:
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(raw[:4])
    address = ipaddress.IPv6Address(raw)
    return address.ipv4_mapped or address
