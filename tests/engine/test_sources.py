import errno
import socket
from contextlib import ExitStack

import pytest

from connprobe.engine.sources import Source, Sources, sockaddr


def test_sources_come_in_turn_and_go_round() -> None:
    shares = (("a", 2, 0, None), ("b", 1, 0, None), ("c", 2, 1025, (1025, 1031, 2)))
    expected = ["a", "a", "b", "c", "c"]
    sources = Sources(shares, 0)
    assert [next(sources).address for _ in range(12)] == [*expected, *expected, *expected[:2]]


def test_many_at_once_are_the_next_ones_in_turn() -> None:
    shares = tuple((address, count, 0, None) for address, count in (("127.0.0.7", 3), ("127.0.0.8", 2)))
    expected = [
        sockaddr(address, 0) for address, count in [share[:2] for share in shares] * 4 for _ in range(count)
    ]
    for taken in (1, 2, 3, 4, 5, 11):
        sources = Sources(shares, 0)
        begun = [next(sources).sockaddr for _ in range(taken)]
        assert begun + sources.sockaddrs(0) + sources.sockaddrs(7) == expected[: taken + 7]
        assert next(sources).sockaddr == expected[taken + 7]


def test_ports_that_are_taken_are_passed_over() -> None:
    low = 20_001
    with ExitStack() as closing:
        for offset in (0, 4):
            closing.enter_context(socket.socket()).bind(("127.0.0.7", low + offset))
        source = Source("127.0.0.7", 0, low, (low, low + 6, 2))
        for expected in (low + 2, low + 6):
            sock = closing.enter_context(socket.socket())
            source.bind(sock)
            assert sock.getsockname() == ("127.0.0.7", expected)


def test_none_is_free() -> None:
    low = 20_011
    with ExitStack() as closing:
        for offset in (0, 2):
            closing.enter_context(socket.socket()).bind(("127.0.0.7", low + offset))
        late = closing.enter_context(socket.socket())
        with pytest.raises(OSError, match="every source port") as caught:
            Source("127.0.0.7", 0, low, (low, low + 2, 2)).bind(late)
        assert caught.value.errno == errno.EADDRINUSE


def test_a_port_in_time_wait_serves_another_target() -> None:
    port = 20_021
    source = Source("127.0.0.7", 0, port, (port, port, 1))
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sock:
            source.bind(sock)
            sock.connect(server.getsockname())
            sock.shutdown(socket.SHUT_WR)
            server.accept()[0].close()
            assert sock.recv(1) == b""  # the server's FIN came second: ours is the TIME_WAIT


def test_an_address_that_is_not_ours_is_no_port_problem() -> None:
    with socket.socket() as sock, pytest.raises(OSError, match="assign") as caught:
        Source("192.0.2.1", 0, 20_001, (20_001, 20_011, 2)).bind(sock)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_the_kernel_chooses_late_so_that_a_port_serves_many_destinations() -> None:
    with socket.socket() as sock:
        Source("127.0.0.7", 0, 0, None).bind(sock)
        assert sock.getsockname() == ("127.0.0.7", 0)
