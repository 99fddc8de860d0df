"""Hosts to tune, real listeners, and the probes in the running kernel for those who look at them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from connprobe.kernel.live import Live
from connprobe.kernel.loader import Loaded
from connprobe.plan.sysctl.file import expand
from connprobe.session.kernel.probes import load_probes
from connprobe.system.sysctl import Tree
from kernel.sockets import Sockets
from netns import network_namespace
from profiles import SHIPPED, shipped


@pytest.fixture
def namespace() -> Iterator[Tree]:
    """The real /proc/sys, in a network namespace of its own. Only net/ differs from the host's."""
    with network_namespace():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield Tree()


class Copied(Tree):
    """Files that take a value in one step, as the kernel does: killed in a write, it was made or was not."""

    def write(self, key: str, value: str) -> None:
        os.close(self._open(key, os.O_WRONLY))
        path, fresh = self.root / key, self.root.with_name("a-value")
        fresh.write_bytes(value.encode("utf-8", "surrogateescape") + b"\n")
        shutil.copymode(path, fresh)
        fresh.replace(path)


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
    return Copied(root)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


def _load() -> Iterator[Loaded]:
    """All probes of a run; a test without them is skipped with the remedy."""
    with load_probes() as probes:
        for probe in probes.probes.values():
            if not isinstance(probe, Live):
                pytest.skip(f"{probe.reason}: {probe.fix or 'run the tests on a kernel that has it'}")
        yield probes


# For several tests, as each looks at listeners of its own; or for one that tears them, or came before them.
loaded = pytest.fixture(_load, scope="module", name="loaded")
fresh = pytest.fixture(_load, name="fresh")
