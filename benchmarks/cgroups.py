"""Control groups for servers that are measured: made for one run, and gone with it, whatever ends it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.processes import BenchmarkError

from connprobe.cgroup import V2, parse_hierarchies

PREFIX = "connprobe-bench-"
EMPTY_S = 10.0
_FILES = {  # controller: (limit of v2, of v1, what keeps it out of swap in v2)
    "memory": ("memory.max", "memory.limit_in_bytes", "memory.swap.max"),
    "pids": ("pids.max", "pids.max", None),
}


@contextmanager
def group(controller: str, limit: int) -> Iterator[Path]:
    """Its directory, with that limit set. At the end what still runs in it is killed, and it is removed."""
    parent, version = _parent(controller)
    _sweep(parent)
    path = parent / f"{PREFIX}{os.getpid()}"
    limit_v2, limit_v1, no_swap = _FILES[controller]
    try:
        try:
            path.mkdir()
            (path / (limit_v2 if version == 2 else limit_v1)).write_text(str(limit))
            if version == 2 and no_swap is not None and (path / no_swap).exists():
                (path / no_swap).write_text("0")
        except OSError as error:
            raise BenchmarkError(f"{error.filename}: {error.strerror}: run as root") from error
        yield path
    finally:
        _remove(path)


def _parent(controller: str) -> tuple[Path, int]:
    hierarchies = parse_hierarchies(Path("/proc/self/mountinfo").read_text(errors="replace"))
    if controller in hierarchies:
        return Path(hierarchies[controller].mount), 1
    if V2 in hierarchies:
        root = Path(hierarchies[V2].mount)
        if controller in (root / "cgroup.subtree_control").read_text().split():
            return root, 2
        raise BenchmarkError(
            f"{controller} is not delegated: echo +{controller} > {root / 'cgroup.subtree_control'}"
        )
    raise BenchmarkError(f"no cgroup has {controller}: mount -t cgroup2 none /sys/fs/cgroup")


def _sweep(parent: Path) -> None:
    """Those of a benchmark that was killed: nothing runs in them, or they could not be removed."""
    for path in parent.glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX)
        if owner.isdecimal() and not Path("/proc", owner).exists():
            with suppress(OSError):
                path.rmdir()


def _remove(path: Path) -> None:
    deadline = time.monotonic() + EMPTY_S
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:  # EBUSY: a process of it has not ended
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{path}: {error.strerror}: cat {path}/cgroup.procs") from error
        else:
            return
        for pid in (path / "cgroup.procs").read_text().split():
            with suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)
