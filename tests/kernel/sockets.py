"""What the tests of probes do to the kernel."""

import socket
from collections.abc import Callable
from contextlib import ExitStack

from connprobe.kernel.live import Live
from connprobe.kernel.probe import Probe

Load = Callable[[Probe], Live]


class Sockets:
    """Listeners, and connections to them that are begun and not waited for."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def listen(
        self, backlog: int, address: str = "127.0.0.1", port: int = 0, *, reuse: bool = False
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        return listener

    def connect(self, listener: socket.socket, count: int = 1) -> list[socket.socket]:
        """On loopback the handshake is over, or its SYN dropped, when connect(2) returns."""
        made = []
        for _ in range(count):
            client = self._stack.enter_context(socket.socket(listener.family, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            made.append(client)
        return made

    def accept(self, listener: socket.socket) -> socket.socket:
        return self._stack.enter_context(listener.accept()[0])

    def close(self) -> None:
        self._stack.close()
