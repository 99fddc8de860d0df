"""Samples of a run, and what they set going."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from connprobe.engine import counters
from connprobe.fleet.shared import SharedTable
from connprobe.kernel.loader import Loaded
from connprobe.model import Sample
from connprobe.observe.process import ProcessGroup
from connprobe.session import sampling
from connprobe.session.kernel.kernelview import KernelView
from connprobe.session.sampling import Sampler
from connprobe.store.rundir import RunDirectory


class Unseen:
    def update(self, sample: Sample, phase_left_s: float | None = None, note: str | None = None) -> None:
        """No terminal."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Goes on when it is told to."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(sampling, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.fixture
def table() -> Iterator[SharedTable]:
    made = SharedTable(1, counters.COLUMNS)
    yield made
    os.close(made.fd)


def times(directory: RunDirectory) -> list[float]:
    return [json.loads(line)["at_s"] for line in (directory.path / "samples.jsonl").read_text().splitlines()]


def test_a_sample_a_second(clock: SimpleNamespace, table: SharedTable, tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "hold", "test") as directory:
        sampler = Sampler(directory, Unseen(), None, KernelView(lambda found: [], None))
        for _ in range(100):  # of the loop's turns, 97 ms each
            sampler.tick("hold", counters.Totals(), table, None)
            clock.now += 0.097
        at = times(directory)
    assert len(at) == 10
    assert all(0.9 <= after - before < 1.1 for before, after in pairwise(at))
    assert sampler.late_samples == 0


def test_the_first_is_taken_before_there_are_workers(
    clock: SimpleNamespace, table: SharedTable, tmp_path: Path
) -> None:
    with RunDirectory.create(tmp_path, "hold", "test") as directory:
        sampler = Sampler(directory, Unseen(), None, KernelView(lambda found: [], None))
        sampler.begin("ramp")
        clock.now += 3  # which it takes to start them
        for _ in range(11):
            sampler.tick("ramp", counters.Totals(established=7), table, None)
            clock.now += 0.1
        lines = (directory.path / "samples.jsonl").read_text().splitlines()
    seen = [(each["phase"], each["at_s"], each["established"]) for each in map(json.loads, lines)]
    assert seen == [("ramp", 0.0, 0), ("ramp", 4.0, 7)]
    assert sampler.late_samples == 0


def test_who_was_held_up_samples_once_and_is_late(
    clock: SimpleNamespace, table: SharedTable, tmp_path: Path
) -> None:
    with RunDirectory.create(tmp_path, "hold", "test") as directory:
        sampler = Sampler(directory, Unseen(), None, KernelView(lambda found: [], None))
        for pause_s in (3.7, 0.1, 0.2, 0.2, 1.0):
            sampler.tick("hold", counters.Totals(), table, None)
            clock.now += pause_s
        sampler.tick("hold", counters.Totals(), table, None)
        assert times(directory) == [0.0, 3.7, 4.2, 5.2]
    assert sampler.late_samples == 1


def sending(gate: socket.socket) -> int:
    """The pid of a child that sends itself 20,000 datagrams when it is told to, and says when it has."""
    pid = os.fork()
    if pid:
        return pid
    try:
        gate.recv(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            name = sock.getsockname()
            for _ in range(20_000):
                sock.sendto(b"", name)
                sock.recv(1)
        gate.send(b"!")
        gate.recv(1)
    finally:
        os._exit(0)


def softirq_s(view: KernelView) -> float:
    network = view.network()
    assert network is not None
    assert network.cpu is not None
    assert network.cpu.target is not None
    return network.cpu.target.softirq_s


def test_a_process_that_the_server_forks_in_the_run_is_followed(fresh: Loaded, tmp_path: Path) -> None:
    view, group = KernelView(lambda found: [], fresh), ProcessGroup([os.getpid()])
    table = SharedTable(1, counters.COLUMNS)
    ours, theirs = socket.socketpair()
    with ours, theirs, RunDirectory.create(tmp_path, "hold", "test") as directory:
        sampler = Sampler(directory, Unseen(), group, view)
        sampler.tick("ramp", counters.Totals(), table, None)
        pid = sending(theirs)
        try:
            group.refresh()
            sampler.tick("hold", counters.Totals(), table, None)
            before = softirq_s(view)
            ours.send(b"g")
            assert ours.recv(1) == b"!"
            assert softirq_s(view) - before > 0.002  # 100 ns each: hardly a tenth of what they take
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(table.fd)
