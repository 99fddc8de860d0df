"""What `connprobe hold` says of the kernel: the accept queue, its memory, and what answered."""

import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from connprobe.kernel.live import Live
from connprobe.model import ProbeUse, RunRecord
from connprobe.observe.sockdiag import listen_sockets
from connprobe.session.kernel.probes import all_probes, load_probes
from running import Command, Namespace, Run, eventually

Start = Callable[..., Command]
Holds = Callable[..., Run]
COUNT = 1009


@pytest.fixture
def hold(hold: Holds) -> Holds:
    return partial(hold, bpf=True)


@pytest.fixture
def start(start: Start) -> Start:
    return partial(start, bpf=True)


@pytest.fixture(scope="module")
def probes() -> None:
    with load_probes() as loaded:
        for probe in loaded.probes.values():
            if not isinstance(probe, Live):
                pytest.skip(f"{probe.reason}: {probe.fix or 'run the tests on a kernel that has it'}")


def uses(record: RunRecord) -> dict[str, ProbeUse]:
    return {use.name: use for use in record.observer.probes}


@pytest.mark.usefixtures("probes")
def test_the_embedded_server_through_ebpf(hold: Holds, namespace: Callable[[], Namespace]) -> None:
    """In a network namespace of its own: a census has room for so many ports, and others may have more."""
    run = hold("--count", str(COUNT), "--for", "1s", "--workers", "2", prefix=namespace().prefix)
    record = run.record
    (listener,) = record.listeners
    assert listener.address == record.target
    assert listener.source.startswith("eBPF: ")
    assert listener.overflows == 0
    assert listener.capacity is not None
    assert listener.depth_max is not None
    assert 1 <= listener.depth_max <= COUNT
    assert "somaxconn" in (listener.capacity_from or "")
    assert listener.wait_ms is not None
    assert listener.wait_ms.count == COUNT
    assert 0 < listener.wait_ms.p50 <= listener.wait_ms.max
    assert record.kernel is not None
    assert record.kernel.connections == COUNT
    assert record.kernel.ends == 2
    assert record.kernel.source
    assert set(uses(record)) == {probe.name for probe in all_probes()}
    for use in record.observer.probes:
        assert use.source is not None
        assert use.source.startswith("eBPF: ")
        assert use.kernel_memory_bytes
        assert not any(cause.startswith("detached") for cause in use.lost)
    assert not {"listeners", "listeners.0.wait_ms", "kernel"} & record.unknown.keys()
    assert any(f"{listener.address}: the accept queue did not overflow" in v.text for v in record.verdicts)
    last = run.samples[-1].kernel
    assert last is not None
    assert [each.enqueued for each in last.queues] == [COUNT]
    assert last.slab_bytes
    assert (last.established, last.half_open) == (COUNT, 0)
    network = record.network
    assert network is not None
    assert {(each.role, each.opened, each.failed) for each in network.lifecycle or ()} == {
        ("server", COUNT, 0),
        ("client", COUNT, 0),
    }
    assert [(each.address, each.flooded) for each in network.syn_queues or ()] == [(record.target, False)]
    assert network.cpu is not None
    assert network.cpu.client is not None
    assert 0 < network.cpu.client.softirq_s <= network.cpu.net_rx_s + network.cpu.net_tx_s
    assert network.pressure is not None
    assert network.census is not None
    established = [each for each in network.census.groups if each.state == "ESTAB"]
    assert sorted((each.side, each.sockets) for each in established) == [("client", COUNT), ("server", COUNT)]


def test_without_ebpf_by_choice(hold: Holds) -> None:
    record = hold("--count", str(COUNT), "--for", "1s", "--no-bpf").record
    (listener,) = record.listeners
    assert (listener.source, listener.overflows, listener.wait_ms) == ("sock_diag", 0, None)
    assert listener.capacity is not None
    assert listener.depth_max is not None
    assert record.unknown["listeners.0.wait_ms"] == "switched off by --no-bpf"
    assert uses(record)["accept_queue"].source == "sock_diag, once a second"
    assert not record.request.bpf
    assert record.kernel is not None


class Slow:
    """listen(3), and nothing is accepted until that has overflowed."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(3)
        self.target = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        """Nothing until the queue has overflowed, then each that comes."""
        eventually(self._overflowed, 60)
        while True:
            try:
                self._held.append(self.listener.accept()[0])
            except OSError:
                return

    def _overflowed(self) -> bool:
        address, port = self.listener.getsockname()
        (mine,) = [each for each in listen_sockets(port) if str(each.address) == address]
        return bool(mine.drops)

    def end(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self.listener.close()
        for each in self._held:
            each.close()


@pytest.fixture
def slow() -> Iterator[Slow]:
    server = Slow()
    yield server
    server.end()


@pytest.mark.parametrize("options", [(), ("--no-bpf",)])
def test_an_accept_queue_that_overflows(
    options: tuple[str, ...], slow: Slow, hold: Holds, request: pytest.FixtureRequest
) -> None:
    if not options:
        request.getfixturevalue("probes")
    run = hold("--target", slow.target, "--protocol", "tcp", "--count", "23", "--for", "1s", *options)
    record = run.record
    (listener,) = record.listeners
    assert listener.overflows is not None
    assert listener.overflows >= 1
    assert listener.capacity == 4
    (verdict,) = [each for each in record.verdicts if each.text.startswith(f"{slow.target}: ")]
    assert verdict.level == "warning"
    assert "the accept queue overflowed" in verdict.text
    assert "of 4 at most" in verdict.text
    assert "backlog argument of listen(2): 3" in verdict.text
    assert "net.core.somaxconn" in (verdict.fix or "")
    if not options:
        assert listener.depth_max == 4


def test_without_privilege_the_run_goes_on(hold: Holds, nobody: tuple[tuple[str, ...], Path]) -> None:
    prefix, home = nobody
    record = hold("--count", "101", "--for", "1s", prefix=prefix, results=home / "results").record
    assert record.held == 101
    (listener,) = record.listeners
    assert (listener.source, listener.wait_ms) == ("sock_diag", None)
    assert "CAP_BPF and CAP_PERFMON" in record.unknown["listeners.0.wait_ms"]
    for use in record.observer.probes:
        assert use.fix == "run it as root (sudo)"


def test_the_reason_is_shown_to_who_has_no_privilege(
    start: Start, nobody: tuple[tuple[str, ...], Path]
) -> None:
    prefix, home = nobody
    command = start("hold", "--count", "11", "--for", "0s", prefix=prefix, results=home / "results")
    run = command.finish()
    assert run.returncode == 0
    assert run.says("eBPF needs CAP_BPF and CAP_PERFMON")
    assert run.says("run it as root (sudo)")


@pytest.mark.usefixtures("probes")
def test_no_worker_or_server_inherits_a_probe(start: Start) -> None:
    command = start("hold", "--count", "101", "--for", "10m", "--workers", "2")
    command.sampled("hold")
    mine = command.pid
    for pid in command.processes():
        bpf = [link for link in links_of(pid) if "bpf" in link or "perf_event" in link]
        assert bool(bpf) == (pid == mine), (pid, bpf)
    command.interrupt()
    assert command.finish().returncode == 130


def links_of(pid: int) -> list[str]:
    return [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.mark.usefixtures("probes")
def test_ctrl_c_while_probes_are_attached(start: Start) -> None:
    """The server listens by then, and nothing was opened yet; or the run has just begun."""
    command = start("hold", "--count", "101", "--for", "10m")
    command.named("connprobe-s-0")
    command.interrupt()
    run = command.finish()
    assert run.returncode == 130
    assert "Traceback" not in run.stderr
    assert run.record.outcome == "interrupted"
