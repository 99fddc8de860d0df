"""Entering the network namespace of another process; in a process of its own, as there is no way back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connprobe.system.netns import is_foreign

SOURCES = Path(__file__).parents[2] / "cli"
ENTER = """
import os, sys
from connprobe.system.netns import enter, is_foreign
pid = int(sys.argv[1])
print(is_foreign(pid), enter(pid), is_foreign(pid), open("/proc/self/net/dev").read().count(":"))
"""


def ran(*command: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """A process in a network namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make a network namespace: sudo .venv/bin/pytest")
    command = ["unshare", "-n", "sh", "-c", "echo ready; exec cat"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        pytest.skip("unshare -n was refused: run with CAP_SYS_ADMIN")
    yield process.pid
    process.communicate()


def test_it_is_entered(elsewhere: int) -> None:
    assert ran(sys.executable, "-c", ENTER, str(elsewhere)).startswith("True None False 1")


def test_without_privilege_it_is_refused(elsewhere: int) -> None:
    drop = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", "--reuid=0", "--")
    assert ran(*drop, sys.executable, "-c", ENTER, str(elsewhere)).startswith(
        "True Operation not permitted True"
    )


def test_our_own_is_not_foreign_and_a_process_that_is_gone_is_not_either() -> None:
    assert not is_foreign(os.getpid())
    assert not is_foreign(1 << 22)  # one more than the highest pid there may be
