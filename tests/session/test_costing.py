"""What is said of limits where not all is known."""

import os
import shutil
import subprocess

import pytest

from connprobe.plan.limits.unsettled import Held
from connprobe.session.costing import bare, heap_of, table
from made import a_ceiling

NOFILE = a_ceiling("nofile", 4096, "process_fds", used=8)
EPOLL = a_ceiling("epoll_watches", 5000, scope="user 0", per_connection=1)
PORTS = a_ceiling("source_ports", 28_232, scope="client", per_connection=1)


def test_what_is_known_without_measuring_is_an_upper_bound() -> None:
    why = "connections varied between 90 and 110: too little to tell what one costs"
    found = table([NOFILE, EPOLL], Held({}, {}, {"looks": why}), 110, at=100, unknown={}, heap=None)
    assert [limit.resource for limit in found.limits] == ["epoll_watches"]
    assert found.unknown == {"limits": why}
    assert found.headline is not None
    assert "stops at the latest at 5,000 connections" in found.headline
    assert found.headline.endswith("Not measured, and perhaps sooner: file descriptors.")


def test_a_server_elsewhere_leaves_the_limits_of_the_client() -> None:
    found = bare(5000, [PORTS], "it has no process on this host")
    assert [(limit.resource, limit.connections) for limit in found.limits] == [("source_ports", 28_232)]
    assert "no process on this host" in found.unknown["limits"]
    assert found.headline is not None
    assert found.headline.startswith("This client stops at the latest at 28,232 connections: source ports")
    assert found.headline.endswith("perhaps sooner: all of the server.")


def test_a_program_with_a_heap_of_its_own_is_known() -> None:
    assert heap_of([os.getpid(), 1 << 22]) is None
    if shutil.which("node") is None:
        pytest.skip("needs Node: apt-get install nodejs")
    with subprocess.Popen(["node", "-e", "setInterval(() => {}, 1000); console.log()"], stdout=-1) as node:
        assert node.stdout is not None
        node.stdout.readline()
        assert heap_of([os.getpid(), node.pid]) == "node"
        node.kill()
