"""Memory cgroups for tests of what happens when memory is short: of nobody but the test's own processes."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

REMEDY = "run as root, where the memory controller of cgroups is mounted and writable, or free to be mounted"


class MemoryCgroup:
    def __init__(self, path: Path) -> None:
        self.path = path

    def limit(self, size: int) -> None:
        v2 = self.path / "memory.max"
        (v2 if v2.exists() else self.path / "memory.limit_in_bytes").write_text(str(size))

    def limit_tcp(self, size: int) -> None:
        """Buffers of TCP alone."""
        file = self.path / "memory.kmem.tcp.limit_in_bytes"
        if not file.exists():
            pytest.skip("limits of TCP alone need cgroup v1: boot a kernel with CONFIG_MEMCG_V1 and mount it")
        file.write_text(str(size))

    def run(self, work: Callable[[], object]) -> int:
        """In a process of its own within the cgroup; its wait status."""
        pid = os.fork()
        if pid == 0:
            try:
                (self.path / "cgroup.procs").write_text(str(os.getpid()))
                work()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1]


@contextmanager
def memory_cgroup() -> Iterator[MemoryCgroup]:
    """An empty one, removed in the end; mounts and controllers are left as they were."""
    with _hierarchy() as root:
        controllers = root / "cgroup.subtree_control"
        enable = controllers.exists() and "memory" not in controllers.read_text().split()
        path = root / f"connprobe-test-{os.getpid()}"
        try:
            if enable:
                controllers.write_text("+memory")
            path.mkdir()
        except OSError as error:
            pytest.skip(f"{path}: {error.strerror}: {REMEDY}")
        try:
            yield MemoryCgroup(path)
        finally:
            path.rmdir()
            if enable:
                controllers.write_text("-memory")


@contextmanager
def _hierarchy() -> Iterator[Path]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, kind = line.split(" - ")[0].split()[4], line.split(" - ")[1].split()
        if kind[0] == "cgroup" and "memory" in kind[2].split(","):
            yield Path(mount)
            return
        with suppress(OSError):
            if kind[0] == "cgroup2" and "memory" in (Path(mount) / "cgroup.controllers").read_text().split():
                yield Path(mount)
                return
    with TemporaryDirectory() as place:
        for kinds in (("cgroup", "-o", "memory"), ("cgroup2",)):
            command = ["mount", "-t", kinds[0], *kinds[1:], "none", place]
            mounted = subprocess.run(command, capture_output=True, text=True, check=False)
            if mounted.returncode == 0:
                break
        else:
            pytest.skip(f"{mounted.stderr.strip()}: {REMEDY}")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)
