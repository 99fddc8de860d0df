"""The source of each next connection: an address, and a port that the kernel chooses or that is bound."""

import errno
import socket
import struct
from collections.abc import Sequence
from functools import cached_property
from itertools import cycle

IP_BIND_ADDRESS_NO_PORT = 24
PORT_TRIES = 64


def sockaddr(address: str, port: int, scope_id: int = 0) -> bytes:
    """struct sockaddr_in or sockaddr_in6, padded to one length. Raises OSError for what is no address."""
    if ":" not in address:
        packed = socket.inet_pton(socket.AF_INET, address)
        return struct.pack("=H2s4s20x", socket.AF_INET, port.to_bytes(2, "big"), packed)
    packed = socket.inet_pton(socket.AF_INET6, address)
    return struct.pack("=H2sI16sI", socket.AF_INET6, port.to_bytes(2, "big"), 0, packed, scope_id)


class Source:
    """One address, with the ports that are bound one by one, if any."""

    def __init__(
        self, address: str, scope_id: int, first_port: int, ports: tuple[int, int, int] | None
    ) -> None:
        self.address = address
        self._scope = (0, scope_id) if address.startswith("fe80") else ()
        self._any_port = (address, 0, *self._scope)
        self._ports: Sequence[int] = range(ports[0], ports[1] + 1, ports[2]) if ports else ()
        self._next = self._ports.index(first_port) if ports else 0
        self.more_tries = min(len(self._ports) - 1, PORT_TRIES) if ports else 0  # the kernel tries by itself

    @cached_property
    def sockaddr(self) -> bytes:
        """Of the address with any port; b"" where the kernel chooses that too."""
        return sockaddr(self.address, 0, *self._scope[1:]) if self.address else b""

    def bind(self, sock: socket.SocketType) -> None:
        """Raises OSError; EADDRINUSE when none of the ports is free.

        Ports in TIME_WAIT are taken (SO_REUSEADDR): whether the pair of both ends is free, connect(2) says
        with EADDRNOTAVAIL, and another port may be.
        """
        if not self._ports:
            if self.address:
                # Or the port would be spent for all destinations at once.
                sock.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind(self._any_port)
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for _ in range(len(self._ports)):
            port = self._ports[self._next]
            self._next = (self._next + 1) % len(self._ports)
            try:
                sock.bind((self.address, port, *self._scope))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return
        raise OSError(errno.EADDRINUSE, "every source port is in use")


class Sources:
    """The source of each connection in turn. After the last it goes round, for reconnections."""

    def __init__(
        self, shares: Sequence[tuple[str, int, int, tuple[int, int, int] | None]], scope_id: int
    ) -> None:
        each = [(Source(address, scope_id, first, ports), count) for address, count, first, ports in shares]
        self._turns = cycle(each)
        self._left = 0  # of this turn

    def __next__(self) -> Source:
        while not self._left:
            self._source, self._left = next(self._turns)
        self._left -= 1
        return self._source

    def sockaddrs(self, number: int) -> list[bytes]:
        """Of so many: see Source.sockaddr."""
        given: list[bytes] = []
        while len(given) < number:
            address = next(self).sockaddr
            more = min(self._left, number - len(given) - 1)
            self._left -= more
            given += [address] * (1 + more)
        return given
