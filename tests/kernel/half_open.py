"""Handshakes that are begun by hand and never ended."""

import os
import socket
import struct
import subprocess
from pathlib import Path

_SYN, _RST = 2, 4


def prepare() -> None:
    """In a network namespace of the test's own: addresses from which no answer comes, not even a reset.

    They are routed to the loopback and are no local ones: the kernel sends no reset from them.
    """
    subprocess.run(["ip", "route", "add", "192.0.2.0/24", "dev", "lo"], check=True)
    subprocess.run(["ip", "-6", "route", "add", "2001:db8::/64", "dev", "lo"], check=True)


def set_sysctl(name: str, value: int) -> None:
    (Path("/proc/sys") / name.replace(".", "/")).write_text(str(value))


def send_syns(listener: socket.socket, count: int, data: bytes = b"") -> None:
    """Each from another address and port. Returns when the kernel has them, not when it has answered all."""
    _send(listener, count, _SYN, data)


def send_resets(listener: socket.socket, count: int) -> None:
    """For as many that `send_syns` began."""
    _send(listener, count, _RST)


def _send(listener: socket.socket, count: int, flag: int, data: bytes = b"") -> None:
    address, port = listener.getsockname()[:2]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:  # with a header of our own
        for number in range(count):
            host = f"2001:db8::{1 + number % 250:x}" if ":" in address else f"192.0.2.{1 + number % 250}"
            ends = socket.inet_pton(family, host) + socket.inet_pton(family, address)
            tcp = _segment(ends, 1024 + number, port, flag, data)
            raw.sendto(_header(family, ends, len(tcp)) + tcp, (address, 0))
            os.sched_yield()


def _segment(ends: bytes, source: int, port: int, flag: int, data: bytes) -> bytes:
    option = b"\x22\x02\x01\x01" if data else b""  # an empty TCP Fast Open cookie, and two of padding
    length = 20 + len(option) + len(data)
    pseudo = ends + struct.pack("!2I", length, socket.IPPROTO_TCP)
    sequence = 1000 if flag == _SYN else 1001
    checksum = 0
    for _ in range(2):  # first over a field of 0
        fields = (source, port, sequence, 0, (5 + len(option) // 4) << 4, flag, 65535, checksum, 0)
        segment = struct.pack("!2H2I2B3H", *fields) + option + data
        checksum = checksum or _checksum(pseudo + segment)
    return segment


def _header(family: int, ends: bytes, length: int) -> bytes:
    if family == socket.AF_INET6:
        return struct.pack("!IH2B", 6 << 28, length, socket.IPPROTO_TCP, 64) + ends
    return struct.pack("!2B3H2BH", 0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
