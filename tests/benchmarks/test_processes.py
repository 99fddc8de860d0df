"""What benchmarks change for themselves is as it was when they are done."""

import importlib
import os
import socket
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

LIMIT = Path("/proc/sys/net/ipv4/tcp_max_tw_buckets")


@pytest.fixture(scope="module")
def processes(benchmarks: None) -> ModuleType:
    return importlib.import_module("benchmarks.processes")


def namespace() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace: sudo .venv/bin/pytest")
def test_a_network_of_its_own_is_left_whatever_happens(processes: ModuleType) -> None:
    home, limit = namespace(), LIMIT.read_text()
    with pytest.raises(ZeroDivisionError):
        look_and_fail(processes, home)
    assert (namespace(), LIMIT.read_text()) == (home, limit)


def look_and_fail(processes: ModuleType, home: str) -> None:
    with processes.network_of_its_own():
        inside = namespace()
        assert inside != home
        assert int(LIMIT.read_text()) == processes.TIME_WAITS
        assert subprocess.check_output(["readlink", "/proc/self/ns/net"], text=True).strip() == inside
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            assert processes.sockets() == 3  # and those of nobody else
        raise ZeroDivisionError
