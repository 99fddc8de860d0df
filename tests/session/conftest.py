"""Hosts to tune: a network namespace of the test's own, and a directory that stands for /proc/sys."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from connprobe.plan.sysctl_file import expand
from connprobe.system.sysctl import Tree
from netns import network_namespace
from profiles import SHIPPED, shipped


@pytest.fixture
def namespace() -> Iterator[Tree]:
    """The real /proc/sys, in a network namespace of its own. Only net/ differs from the host's."""
    with network_namespace():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield Tree()


@pytest.fixture
def copy(tmp_path: Path) -> Tree:
    """All keys of the shipped profiles, with the values that this host has, as files."""
    root, real = tmp_path / "proc-sys", Tree()
    for name in SHIPPED:
        for each in expand(shipped(name), real.matching):
            path = root / each.key
            path.parent.mkdir(parents=True, exist_ok=True)
            value = real.read(each.key).value
            path.write_bytes(b"1\t1\t1\n" if value is None else value.encode() + b"\n")
    return Tree(root)
