"""Limits of a cgroup of version 2, as this kernel keeps them: what is read, and where they really end."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from connprobe.cgroup import V2, parse_hierarchies, tightest
from connprobe.observe.ceilings import server_ceilings
from connprobe.observe.cgroupmemory import tightest_memory
from connprobe.observe.reading import ServerMeter
from connprobe.system.facts import read_facts
from running import eventually

MiB = 1 << 20
LIMIT = 64 * MiB
CONTROLLERS = ("memory", "pids")
REMEDY = "scripts/kernels 6.12 boots a kernel on which no hierarchy of version 1 has them"
PATIENCE_S = 120.0
# Takes a megabyte for each line that it is sent, or starts a thread, and says how many it has.
TAKING = """
import sys, threading
kept = []
print(0, flush=True)
for line in sys.stdin:
    if line == "thread\\n":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    else:
        kept.append(bytearray(b"x") * (1 << 20))
    print(len(kept) + threading.active_count() - 1, flush=True)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """An empty cgroup of the one hierarchy, with memory.max, no swap, and pids.max."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a cgroup: sudo scripts/test")
    with TemporaryDirectory() as place:
        known = parse_hierarchies(Path("/proc/self/mountinfo").read_text()).get(V2)
        if (
            known is None
            and subprocess.run(["mount", "-t", "cgroup2", "none", place], check=False).returncode
        ):
            pytest.skip(f"no cgroup2 can be mounted: {REMEDY}")
        root = Path(place if known is None else known.mount)
        switches = root / "cgroup.subtree_control"
        path = root / f"connprobe-test-{os.getpid()}"
        try:
            missing = set(CONTROLLERS) - set((root / "cgroup.controllers").read_text().split())
            if missing:
                pytest.skip(f"{', '.join(sorted(missing))}: not of version 2 on this host: {REMEDY}")
            added = [each for each in CONTROLLERS if each not in switches.read_text().split()]
            try:
                for each in added:
                    switches.write_text(f"+{each}")
                path.mkdir()
                for file, value in (("memory.max", LIMIT), ("memory.swap.max", 0), ("pids.max", 7)):
                    with suppress(FileNotFoundError):  # a kernel without swap
                        (path / file).write_text(str(value))
                yield path
            finally:
                with suppress(FileNotFoundError):
                    assert eventually(lambda: not (path / "cgroup.procs").read_text(), PATIENCE_S)
                    path.rmdir()
                for each in added:
                    switches.write_text(f"-{each}")
        finally:
            if known is None:
                subprocess.run(["umount", place], check=True)


class Taking:
    def __init__(self, group: Path) -> None:
        into = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        self.process = subprocess.Popen(
            ["sh", "-c", into, "sh", sys.executable, "-S", "-I", "-c", TAKING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        self.has = self._hear()

    def _hear(self) -> int | None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        assert ready
        line = self.process.stdout.readline()
        return int(line) if line else None

    def take(self, what: str = "memory") -> int | None:
        """What it has now; None: it is gone."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{what}\n")
        self.has = self._hear()
        return self.has


@pytest.fixture
def taking(group: Path) -> Iterator[Taking]:
    made = Taking(group)
    yield made
    made.process.kill()
    made.process.communicate()


def test_its_memory_is_read_and_ends_where_it_says(group: Path, taking: Taking) -> None:
    pid = taking.process.pid
    first = tightest_memory(pid)
    assert first is not None
    assert (first.place.version, first.file) == (2, group / "memory.max")
    assert (first.capacity_bytes, first.throttled) == (LIMIT, False)
    taken, has = [float(first.taken_bytes)], 0
    meter = ServerMeter([pid])
    while (now := taking.take()) is not None:
        has = now
        if has == 23:
            use = meter.read(0)
            assert use["cgroup_bytes"] - taken[0] == pytest.approx(23 * MiB, rel=0.03)
        if has <= 23:
            bound = tightest_memory(pid)
            assert bound is not None
            taken.append(bound.taken_bytes)
    assert taking.process.wait(PATIENCE_S) == -signal.SIGKILL
    each = (taken[23] - taken[11]) / 12
    predicted = 23 + (LIMIT - taken[23]) / each
    assert has == pytest.approx(predicted, abs=1.5)
    assert "oom_kill 1" in (group / "memory.events").read_text()


def test_memory_high_comes_first_where_it_is_lower(group: Path, taking: Taking) -> None:
    (group / "memory.high").write_text(str(48 * MiB))
    bound = tightest_memory(taking.process.pid)
    assert bound is not None
    assert (bound.file, bound.capacity_bytes, bound.throttled) == (group / "memory.high", 48 * MiB, True)


def test_its_threads_are_counted_and_end_where_it_says(group: Path, taking: Taking) -> None:
    pid = taking.process.pid
    bound = tightest("pids", pid)
    assert bound is not None
    assert (bound.limit, bound.used, bound.file) == (7, 1, group / "pids.max")
    taking.take("thread")
    meter = ServerMeter([pid])
    assert meter.read(0)["pids"] == 2
    found = server_ceilings(meter, read_facts()).found
    threads = next(each for each in found if each.source == str(group / "pids.max"))
    assert (threads.resource, threads.capacity, threads.metric) == ("threads", 7, "pids")
    assert threads.fix == f"echo 14 > {group}/pids.max"
    assert any(each.source == str(group / "memory.max") for each in found)
    has = [taking.take("thread") for _ in range(6)]
    assert has == [2, 3, 4, 5, 6, None]  # with its first thread these are 7
    assert "max 1" in (group / "pids.events").read_text()
