"""Samples of a run, and what they set going."""

import os
import signal
import socket
from pathlib import Path

from connprobe.engine import counters
from connprobe.fleet.shared import SharedTable
from connprobe.kernel.loader import Loaded
from connprobe.model import Sample
from connprobe.observe.process import ProcessGroup
from connprobe.session.kernel.kernelview import KernelView
from connprobe.session.sampling import Sampler
from connprobe.store.rundir import RunDirectory


class Unseen:
    def update(self, sample: Sample, phase_left_s: float | None = None, note: str | None = None) -> None:
        """No terminal."""


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
