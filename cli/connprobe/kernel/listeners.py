"""What probes of listeners have in common: the fields that name a socket, and how its endpoint is decoded."""

import ipaddress
import socket
import struct
from typing import NamedTuple

from connprobe.kernel.btf import Field

ENDPOINT = struct.Struct("QIHH16s")  # struct endpoint of probes/common.bpf.h
BUCKET_KEY = struct.Struct("QI4x")  # struct bucket_key
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
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


def decode_endpoint(raw: bytes) -> Endpoint:
    cookie, netns, port, family, address = ENDPOINT.unpack(raw)
    packed = address if family == socket.AF_INET6 else address[:4]
    return Endpoint(ipaddress.ip_address(packed), port, netns, cookie)
