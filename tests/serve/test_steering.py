"""Which listener of an SO_REUSEPORT group a connection goes to: by the kernel, with real connections."""

import random
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from connprobe.serve.steering import NEIGHBOURS_BITS, steer

NEIGHBOURS = 1 << NEIGHBOURS_BITS
FIRST_PORT = 20 * NEIGHBOURS  # below those that the kernel chooses
LISTENERS = 5


class Group:
    """Listeners on one port, all of this process."""

    def __init__(self, stack: ExitStack, address: str) -> None:
        self._stack = stack
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listeners: list[socket.socket] = []
        port = 0
        for _ in range(LISTENERS):
            listener = stack.enter_context(socket.socket(self._family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((address, port))
            port = listener.getsockname()[1]
            listener.listen(64)
            if not self.listeners:
                assert steer(listener, LISTENERS)
            self.listeners.append(listener)

    def of(self, source: str, port: int, target: str = "") -> int:
        """The listener that a connection from there came to."""
        address, to_port, *_ = self.listeners[0].getsockname()
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.settimeout(20)
            client.bind((source, port))
            client.connect((target or address, to_port))
            ready, _, _ = select.select(self.listeners, [], [], 20)
            assert len(ready) == 1
            accepted, _ = ready[0].accept()
            # The reset leaves no TIME_WAIT at a port that the next test may want.
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            accepted.close()
            return self.listeners.index(ready[0])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize(("address", "source"), [("127.0.0.1", "127.9.8.7"), ("::1", "::1")])
def test_neighbouring_ports_come_to_one_and_the_next_ones_to_the_next(
    stack: ExitStack, address: str, source: str
) -> None:
    group = Group(stack, address)
    firsts = range(FIRST_PORT, FIRST_PORT + (LISTENERS + 1) * NEIGHBOURS, NEIGHBOURS)
    came = [group.of(source, port) for port in firsts]
    assert came == [(came[0] + step) % LISTENERS for step in range(LISTENERS + 1)]
    for first, listener in zip(firsts, came, strict=True):
        assert group.of(source, first + NEIGHBOURS - 1) == listener
        assert group.of(source, first + random.randrange(1, NEIGHBOURS - 1)) == listener


def test_the_same_port_of_the_next_address_or_network_comes_to_the_next(stack: ExitStack) -> None:
    group = Group(stack, "127.0.0.1")
    for step in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
        came = [
            group.of("127." + ".".join(str(7 + number * each) for each in step), FIRST_PORT)
            for number in range(LISTENERS)
        ]
        assert came == [(came[0] + number) % LISTENERS for number in range(LISTENERS)]


def test_ipv4_at_a_listener_of_ipv6(stack: ExitStack) -> None:
    """The packet's own version counts, not the socket's."""
    group, alone = Group(stack, "::"), Group(stack, "127.0.0.1")
    for port in (FIRST_PORT, FIRST_PORT + NEIGHBOURS, FIRST_PORT + 3 * NEIGHBOURS + 17):
        assert group.of("127.3.2.1", port, "127.0.0.1") == alone.of("127.3.2.1", port)


def test_where_it_is_refused_it_says_so(stack: ExitStack) -> None:
    """A socket without SO_REUSEPORT takes no such program (EINVAL)."""
    assert not steer(stack.enter_context(socket.create_server(("127.0.0.1", 0))), LISTENERS)
