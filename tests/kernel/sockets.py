"""What the tests of probes do to the kernel."""

import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from connprobe.kernel.live import Live
from connprobe.kernel.probe import Probe
from netns import network_namespace

SLOW_S = 300  # to load a probe, where the processor is emulated and shared

Load = Callable[[Probe], Live]

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h


class Sockets:
    """Listeners, and connections to them that are begun and not waited for."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def listen(
        self,
        backlog: int,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        reuse: bool = False,
        protocol: int = 0,
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            listener = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM, protocol))
        except OSError as error:
            pytest.skip(
                f"protocol {protocol}: {error.strerror}: use a kernel with it, sysctl -w net.mptcp.enabled=1"
            )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        return listener

    def connect(
        self,
        listener: socket.socket,
        count: int = 1,
        host: str | None = None,
        *,
        protocol: int = 0,
        fast_open: bytes | None = None,
        group: Sequence[socket.socket] = (),
    ) -> list[socket.socket]:
        """One after the other, each in the accept queue before the next begins, unless the queue is full.

        group: all listeners among which the kernel chooses.
        """
        at = listener.getsockname()
        address = (host, at[1]) if host is not None else at
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        made = []
        with on_one_cpu():
            for _ in range(count):
                before, full = queued(group or [listener])
                client = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM, protocol))
                client.setblocking(False)
                if fast_open is None:
                    client.connect_ex(address)
                else:
                    client.sendto(fast_open, socket.MSG_FASTOPEN, address)
                made.append(client)
                while not full and queued(group or [listener])[0] == before:
                    os.sched_yield()
        return made

    def accept(self, listener: socket.socket) -> socket.socket:
        return self.keep(listener.accept()[0])

    def keep(self, one: socket.socket) -> socket.socket:
        """Closed with the others."""
        return self._stack.enter_context(one)

    def close(self) -> None:
        self._stack.close()


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """There the kernel is done with a connection that it has queued, programs and all, before one looks."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def queued(listeners: Sequence[socket.socket]) -> tuple[int, bool]:
    """How many wait in all of them, and whether one is full (source: unacked and sacked of TCP_INFO)."""
    waiting, full = 0, False
    for one in listeners:
        depth, backlog = struct.unpack_from(
            "2I", one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24
        )
        waiting += depth
        full |= depth > backlog
    return waiting, full


def inode_of(one: socket.socket) -> int:
    return os.fstat(one.fileno()).st_ino


def drops_of(listener: socket.socket) -> int:
    """Its sk_drops as ss(8) has it from sock_diag: d<count> in skmem."""
    port = listener.getsockname()[1]
    command = ["ss", "-ltmHn", f"sport = :{port}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(re.findall(r",d(\d+)\)", said)[0])


def tcp_counter(name: str) -> int:
    """Of /proc/net/netstat, for the network namespace of the calling thread."""
    return _counter("netstat", "TcpExt", name)


def snmp_counter(name: str) -> int:
    """Of TCP in /proc/net/snmp, likewise."""
    return _counter("snmp", "Tcp", name)


def _counter(file: str, group: str, name: str) -> int:
    lines = Path(f"/proc/thread-self/net/{file}").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith(f"{group}:"))
    return int(values[names.index(name)])


def netns_cookie() -> int:
    """Of the network namespace of the calling thread."""
    with socket.socket() as one:
        return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


@contextmanager
def other_namespace() -> Iterator[None]:
    """Within it the process is in a network namespace of its own, with nothing but a loopback."""
    with network_namespace():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
