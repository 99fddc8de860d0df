import errno
import socket
from itertools import islice

import pytest

from connprobe.engine.sources import Source, each_source


def test_sources_come_in_turn_and_go_round() -> None:
    shares = (("a", 2, 0, None), ("b", 1, 0, None), ("c", 2, 1025, (1025, 1031, 2)))
    expected = ["a", "a", "b", "c", "c"]
    assert [s.address for s in islice(each_source(shares, 0), 12)] == [*expected, *expected, *expected[:2]]


def test_ports_that_are_taken_are_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        low = 20_001
        taken = [socket.socket() for _ in range(2)]
        for offset, each in zip((0, 4), taken, strict=True):
            each.bind(("127.0.0.7", low + offset))
        source = Source("127.0.0.7", 0, low, (low, low + 6, 2))
        socks = []
        for expected in (low + 2, low + 6):
            sock = socket.socket()
            source.bind(sock)
            sock.connect(server.getsockname())
            assert sock.getsockname() == ("127.0.0.7", expected)
            socks.append(sock)
        with socket.socket() as late, pytest.raises(OSError, match="every source port") as caught:
            source.bind(late)
        assert caught.value.errno == errno.EADDRINUSE
        for each in (*taken, *socks):
            each.close()


def test_an_address_that_is_not_ours_is_no_port_problem() -> None:
    with socket.socket() as sock, pytest.raises(OSError, match="assign") as caught:
        Source("192.0.2.1", 0, 20_001, (20_001, 20_011, 2)).bind(sock)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_the_kernel_chooses_late_so_that_a_port_serves_many_destinations() -> None:
    with socket.socket() as sock:
        Source("127.0.0.7", 0, 0, None).bind(sock)
        assert sock.getsockname() == ("127.0.0.7", 0)
