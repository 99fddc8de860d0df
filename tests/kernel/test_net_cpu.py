"""Against processes whose system calls are known, their own clocks, and /proc/softirqs."""

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connprobe.kernel.btf import VMLINUX, Btf
from connprobe.kernel.live import Live
from connprobe.kernel.loader import load as load_probes
from connprobe.kernel.net_cpu import NetCpu, Role, Usage, probe
from kernel.conftest import live
from kernel.sockets import Load

SLOW_S = 100  # for a processor that is emulated
UNTRACED = {"switches_unseen"}  # some sandboxes' kernels trace no switch from the threads of their process 1
PYTHON = 40  # system calls beside those of the work: its own memory, clock, sockets


class Child:
    """A process that waits for `go`, works, says how much CPU time it has had, and waits again."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._parent, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                theirs.recv(1)
                work()
                theirs.send(struct.pack("d", time.process_time()))
                theirs.recv(1)
            finally:
                os._exit(0)
        theirs.close()

    def go(self) -> None:
        self._parent.send(b"g")

    def done(self) -> float:
        (cpu_s,) = struct.unpack("d", self._parent.recv(8))
        return float(cpu_s)

    def end(self) -> None:
        self._parent.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


Start = Callable[[Callable[[], object]], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[Child] = []

    def one(work: Callable[[], object]) -> Child:
        children.append(Child(work))
        return children[-1]

    yield one
    for child in children:
        child.end()


@pytest.fixture(scope="module")
def served(load_once: Load) -> Live:
    return load_once(probe())


@pytest.fixture
def cpu(served: Live) -> NetCpu:
    reader = NetCpu(served)
    assert reader.traces_calls, served.refused
    return reader


def ask(count: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(count):
            os.getppid()

    return work


def send_datagrams(count: int) -> Callable[[], None]:
    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", 0))
            for _ in range(count):
                one.sendto(b"datagram", one.getsockname())
                one.recv(16)

    return work


def call_s(usage: Usage) -> float:
    assert usage.call_s is not None
    return usage.call_s


def nested_s(usage: Usage) -> float:
    assert usage.nested_s is not None
    return usage.nested_s


def test_every_call_is_counted(cpu: NetCpu, start: Start) -> None:
    target, other = start(ask(9973)), start(ask(4999))
    cpu.watch(target.pid, "target")
    for child in (target, other):
        child.go()
        child.done()
    reading = cpu.read()
    calls = reading.processes[target.pid].calls
    assert calls is not None
    assert 9973 <= calls <= 9973 + PYTHON
    assert other.pid not in reading.processes
    assert reading.roles == {"target": reading.processes[target.pid]}
    assert set(reading.lost) <= UNTRACED


def test_calls_that_sleep_are_counted_without_their_sleep(cpu: NetCpu, start: Start) -> None:
    """What the caller ran within calls and what it slept are parts of the time that passed."""
    slept_s = 0.3
    child = start(lambda: select.select([], [], [], slept_s))
    cpu.watch(child.pid, "target")
    began = time.monotonic()
    child.go()
    child.done()
    usage = cpu.read().processes[child.pid]
    assert 0 < call_s(usage) < time.monotonic() - began - 0.9 * slept_s


def test_calls_that_are_left_and_come_back(cpu: NetCpu, start: Start) -> None:
    def play(mine: socket.socket, first: bytes) -> Callable[[], None]:
        def work() -> None:
            mine.send(first)
            for _ in range(2311):
                mine.send(mine.recv(1))

        return work

    one, two = socket.socketpair()
    with one, two:
        players = [start(play(one, b"1")), start(play(two, b"2"))]
    for child in players:
        cpu.watch(child.pid, "target")
    for child in players:
        child.go()
    for child in players:
        child.done()
    reading = cpu.read()
    assert set(reading.lost) <= UNTRACED
    for child in players:
        calls = reading.processes[child.pid].calls
        assert calls is not None
        assert 1 + 2 * 2311 <= calls <= 1 + 2 * 2311 + PYTHON


def test_a_call_whose_thread_came_back_unseen_is_counted(load: Load, start: Start) -> None:
    child = start(ask(499))  # first, as it would keep what it inherits attached
    served = load(probe())
    reader = NetCpu(served)
    reader.watch(child.pid, "target")
    child.go()
    child.done()
    key = struct.pack("I", child.pid)
    while served.maps["sleepers"].get(key) is None:
        os.sched_yield()
    before = reader.read()
    os.close(served.hooks.pop("raw_tracepoint sched_switch"))
    child.go()
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    after = reader.read()
    calls = [(reading.processes[child.pid].calls or 0) for reading in (before, after)]
    assert calls[1] == calls[0] + 1
    told = [reading.lost.get("switches_unseen", 0) for reading in (before, after)]
    assert told[1] > told[0]  # who waited for that CPU may have met it as well
    assert served.maps["sleepers"].get(key) is None


def test_softirqs_within_a_call_are_not_counted_twice(cpu: NetCpu, start: Start) -> None:
    child = start(send_datagrams(7919))
    cpu.watch(child.pid, "client")
    began = time.monotonic()
    child.go()
    cpu_s = child.done()
    reading = cpu.read()
    passed = time.monotonic() - began
    usage = reading.roles["client"]
    assert 0 < nested_s(usage) <= usage.softirq_s + 1e-9
    assert 0.1 * cpu_s < call_s(usage) < 1.5 * cpu_s + 0.1
    assert call_s(usage) + usage.softirq_s < passed
    assert reading.softirqs.net_rx_s >= usage.net_rx_s
    assert reading.other_softirq_s <= reading.softirqs.net_rx_s + reading.softirqs.net_tx_s - usage.softirq_s


def test_softirqs_are_those_of_proc(cpu: NetCpu, start: Start) -> None:
    outer = proc_softirqs()
    first = cpu.read().softirqs
    inner = proc_softirqs()
    child = start(send_datagrams(997))
    child.go()
    child.done()
    inner_end = proc_softirqs()
    last = cpu.read()
    outer_end = proc_softirqs()
    running = len(last.cpus)  # /proc counts each a moment before the probe does
    for name, runs in (
        ("NET_RX", last.softirqs.net_rx_runs - first.net_rx_runs),
        ("NET_TX", last.softirqs.net_tx_runs - first.net_tx_runs),
    ):
        assert inner_end[name] - inner[name] - running <= runs <= outer_end[name] - outer[name] + running
    assert last.softirqs.net_rx_runs - first.net_rx_runs >= 1
    assert last.softirqs.net_rx_s == pytest.approx(sum(one.net_rx_s for one in last.cpus))


def proc_softirqs() -> dict[str, int]:
    rows = [line.split() for line in Path("/proc/softirqs").read_text().splitlines()[1:]]
    return {row[0].rstrip(":"): sum(map(int, row[1:])) for row in rows}


def test_target_and_client_are_told_apart_and_forgotten(cpu: NetCpu, start: Start) -> None:
    children = [start(ask(count)) for count in (23, 97, 499)]
    roles: tuple[Role, ...] = ("target", "client", "client")
    for child, role in zip(children, roles, strict=True):
        cpu.watch(child.pid, role)
        child.go()
        child.done()
    reading = cpu.read()
    calls = [reading.processes[child.pid].calls or 0 for child in children]
    assert reading.roles["target"].calls == calls[0]
    assert reading.roles["client"].calls == calls[1] + calls[2] >= 97 + 499
    cpu.unwatch(children[1].pid)
    reading = cpu.read()
    assert children[1].pid not in reading.processes
    assert (reading.roles["client"].calls or 0) < 97 + 499


def test_a_process_that_is_killed_in_its_sleep_leaves_nothing(
    served: Live, cpu: NetCpu, start: Start
) -> None:
    child = start(ask(23))
    cpu.watch(child.pid, "target")
    child.go()
    child.done()
    key = struct.pack("I", child.pid)
    sleepers = served.maps["sleepers"]
    while sleepers.get(key) is None:
        os.sched_yield()
    assert sleepers.get(key) == [key]
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    while sleepers.get(key) is not None:
        os.sched_yield()


def test_what_there_is_no_room_for_is_told(load: Load, start: Start) -> None:
    reader = NetCpu(load(probe(processes=2, sleepers=1)))
    children = [start(ask(23)) for _ in range(3)]
    for child in children:
        reader.watch(child.pid, "target")
    for child in children:
        child.go()
        child.done()
    while not (lost := reader.read().lost).get("sleepers_full"):  # until they sleep
        os.sched_yield()
    assert lost["unwatched"] == 1
    assert len(reader.read().processes) == 2
    reader.unwatch(children[0].pid)
    reader.watch(children[2].pid, "target")
    assert set(reader.read().processes) == {children[1].pid, children[2].pid}
    assert "unwatched" not in reader.read().lost


def test_without_system_calls(load: Load, start: Start) -> None:
    check_softirqs_alone(load(probe(system_calls=False)), start)


def test_on_a_kernel_whose_scheduler_has_another_tracepoint(load_once: Load, start: Start) -> None:
    load_once(probe())
    doctored = Btf(VMLINUX.read_bytes().replace(b"\0btf_trace_sched_switch\0", b"\0btf_trace_sched_swatch\0"))
    with load_probes([probe()], btf=doctored, timeout_s=SLOW_S) as loaded:
        one = live(loaded, "net_cpu")
        assert [refusal.reason for refusal in one.refused] == ["this kernel has no tracepoint sched_switch"]
        check_softirqs_alone(one, start)


def test_one_of_some_stands_for_all(load: Load, start: Start) -> None:
    """With system calls each softirq is timed; without, beyond 1,024 in a second, one of eight."""
    served_some = load(probe(system_calls=False))
    exact, sampled = NetCpu(load(probe())), NetCpu(served_some)
    ratios: list[float] = []
    for _ in range(5):  # a pause of the whole machine within one that is timed counts eight times: the median
        child = start(send_datagrams(5003))
        for reader in (exact, sampled):
            reader.watch(child.pid, "target")
        began = time.monotonic()
        child.go()
        child.done()
        if not ratios and time.monotonic() - began < 0.5:
            assert timed_last(served_some) < 5003 / 2
        every, some = exact.read().roles["target"], sampled.read().roles["target"]
        ratios.append(some.net_rx_s / every.net_rx_s)
        for reader in (exact, sampled):
            reader.unwatch(child.pid)
    assert 0.5 < sorted(ratios)[2] < 2, ratios


def timed_last(one: Live) -> int:
    """NET_RX softirqs that were timed in the second now counted, of the CPU where they were most."""
    cpus = one.maps["cpus"].get(bytes(4)) or ()
    return max(int(struct.unpack("2Q4I" + 3 * "4Q2I", raw)[16]) for raw in cpus)


def check_softirqs_alone(one: Live, start: Start) -> None:
    reader = NetCpu(one)
    child = start(send_datagrams(997))
    reader.watch(child.pid, "target")
    child.go()
    child.done()
    usage = reader.read().roles["target"]
    assert (usage.calls, usage.call_s, usage.nested_s) == (None, None, None)
    assert usage.net_rx_s > 0
