"""`connprobe watch` as a process, beside servers that somebody else gives load."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import msgspec
import pytest

from connprobe.kernel.live import Live
from connprobe.model import ProbeUse, WatchRecord, WatchSample
from connprobe.session.kernel.probes import load_probes
from kernel.sockets import Sockets
from running import Command, Namespace, eventually

Start = Callable[..., Command]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


class Lines:
    """The --json lines of a running watch, read as they come."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.samples: list[WatchSample] = []

    def next(self) -> WatchSample:
        assert self.command.process.stdout is not None
        line = self.command.process.stdout.readline()
        assert line, self.command.finish().stderr
        self.samples.append(msgspec.json.decode(line, type=WatchSample))
        return self.samples[-1]

    def until(self, condition: Callable[[WatchSample], bool]) -> WatchSample:
        while not condition(sample := self.next()):
            assert len(self.samples) < 600, self.samples[-1]
        return sample

    def rest(self) -> str:
        """Takes what is left to its end, which has to be a good one; what it said on stderr."""
        assert self.command.process.stdout is not None
        for line in self.command.process.stdout:
            self.samples.append(msgspec.json.decode(line, type=WatchSample))
        run = self.command.finish()
        assert run.returncode == 0, run.stderr
        assert "Traceback" not in run.stderr
        return run.stderr

    def end(self) -> str:
        self.command.process.send_signal(signal.SIGINT)
        return self.rest()


def watching(start: Start, *arguments: str, prefix: tuple[str, ...] = ()) -> Lines:
    return Lines(start("watch", "--json", "--interval", "200ms", *arguments, prefix=prefix))


def read_record(results: Path) -> WatchRecord:
    (path,) = results.glob("*-watch-*/watch.json")
    schema = json.loads((DOCS / "watch.schema.json").read_text())
    jsonschema.validate(json.loads(path.read_text()), schema)
    return msgspec.json.decode(path.read_bytes(), type=WatchRecord)


def uses(record: WatchRecord) -> dict[str, ProbeUse]:
    return {use.name: use for use in record.observer.probes}


def need_probes() -> None:
    with load_probes() as loaded:
        for probe in loaded.probes.values():
            if not isinstance(probe, Live):
                pytest.skip(f"{probe.reason}: {probe.fix or 'run the tests on a kernel that has it'}")


def test_lines_and_files_of_an_overflow(start: Start, sockets: Sockets, tmp_path: Path) -> None:
    need_probes()
    listener = sockets.listen(3)
    port = port_of(listener)
    lines = watching(start, "--port", str(port), "--results", str(tmp_path))
    lines.next()
    sockets.connect(listener, 23)
    lines.until(lambda sample: (sample.kernel.queues[0].overflows or 0) >= 19)
    said = lines.end()
    (directory,) = tmp_path.glob("*-watch-port-*")
    written = (directory / "samples.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=WatchSample) for line in written] == lines.samples
    record = read_record(tmp_path)
    (found,) = record.listeners
    assert (found.address, found.depth_max, found.capacity) == (f"127.0.0.1:{port}", 4, 4)
    assert found.overflows is not None
    assert found.overflows >= 19
    assert found.source.startswith("eBPF: ")
    assert record.server is not None
    assert record.server.pids == (os.getpid(),)
    assert record.observer.samples == len(written)
    assert record.observer.cpu_s > 0
    assert all(use.source is not None for use in record.observer.probes)
    (verdict,) = record.verdicts
    assert f"127.0.0.1:{port}: the accept queue overflowed {found.overflows} times" in verdict.text
    assert "held 4 of 4" in verdict.text
    assert "backlog argument of listen(2): 3" in verdict.text
    assert f"Watched port {port} for" in said


def test_ctrl_c_ends_it_with_a_summary(start: Start, sockets: Sockets) -> None:
    listener = sockets.listen(64)
    command = start("watch", "--port", str(port_of(listener)), "--no-bpf")
    assert command.process.stderr is not None
    assert command.process.stderr.readline() == f"watching port {port_of(listener)}\n"
    command.interrupt()
    run = command.finish()
    assert run.returncode == 0
    assert run.stdout.startswith(f"Watched port {port_of(listener)} for ")
    assert f"127.0.0.1:{port_of(listener)}: the accept queue did not overflow" in run.stdout
    assert "Traceback" not in run.stderr


def test_without_ebpf_by_choice(start: Start, sockets: Sockets, tmp_path: Path) -> None:
    listener = sockets.listen(3)
    sockets.connect(listener, 2)
    lines = watching(start, "--port", str(port_of(listener)), "--no-bpf", "--results", str(tmp_path))
    (queue,) = lines.next().kernel.queues
    assert (queue.depth, queue.capacity_each, queue.wait_p50_ms) == (2, 4, None)
    lines.end()
    record = read_record(tmp_path)
    assert record.listeners[0].source == "sock_diag"
    assert record.unknown["listeners.0.wait_ms"] == "switched off by --no-bpf"


SERVER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0), backlog=7)
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """server(prefix) -> (process, port): listens with a backlog of 7 until its standard input ends."""
    running: list[subprocess.Popen[str]] = []

    def begin(prefix: tuple[str, ...] = ()) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield begin
    for process in running:
        process.communicate()


def test_the_listeners_of_a_process_and_its_end(
    start: Start, sockets: Sockets, server: Callable[..., tuple[subprocess.Popen[str], int]], tmp_path: Path
) -> None:
    other = sockets.listen(64)
    process, port = server()
    lines = watching(start, "--pid", str(process.pid), "--no-bpf", "--results", str(tmp_path))
    sample = lines.next()
    assert [each.address for each in sample.kernel.queues] == [f"127.0.0.1:{port}"]
    assert port_of(other) != port
    assert sample.server is not None
    assert sample.server.pids == (process.pid,)
    process.communicate()
    assert f"Process {process.pid} has exited." in lines.rest()  # without being told
    assert read_record(tmp_path).server is not None  # as it was last


def test_a_process_in_another_network_namespace(
    start: Start,
    sockets: Sockets,
    namespace: Callable[[str], Namespace],
    server: Callable[..., tuple[subprocess.Popen[str], int]],
    tmp_path: Path,
) -> None:
    inside = namespace(":")
    process, port = server(inside.prefix)
    sockets.listen(64, port=port, reuse=True)  # here, and not meant
    lines = watching(start, "--pid", str(process.pid), "--results", str(tmp_path))
    (queue,) = lines.next().kernel.queues
    assert (queue.address, queue.depth, queue.capacity_each) == (f"127.0.0.1:{port}", 0, 8)
    client = (
        f"import socket; s = [socket.create_connection(('127.0.0.1', {port})) for _ in range(5)]; input()"
    )
    connected = subprocess.Popen(
        [*inside.prefix, sys.executable, "-c", client], stdin=subprocess.PIPE, text=True
    )
    lines.until(lambda sample: [each.depth for each in sample.kernel.queues] == [5])
    lines.end()
    connected.communicate("\n")
    record = read_record(tmp_path)
    assert [each.depth_max for each in record.listeners] == [5]
    assert "network namespace" not in record.unknown


def test_a_port_where_nobody_listens(start: Start, free_port: Callable[[], int], tmp_path: Path) -> None:
    given = ("--port", str(free_port()), "--for", "300ms", "--no-bpf", "--results", str(tmp_path))
    run = start("watch", *given).finish()
    assert run.returncode == 0
    assert "nothing was seen to listen there" in run.stdout
    record = read_record(tmp_path)
    assert record.listeners == ()
    assert record.unknown["server"] == "no process was found behind the listeners"


@pytest.mark.parametrize("options", [("--no-bpf",), ()])
def test_a_listener_that_comes_later_and_goes(
    options: tuple[str, ...], start: Start, sockets: Sockets, free_port: Callable[[], int], tmp_path: Path
) -> None:
    if not options:
        need_probes()
    port = free_port()
    lines = watching(start, "--port", str(port), "--results", str(tmp_path), *options)
    assert lines.next().kernel.queues == ()
    listener = sockets.listen(3, port=port)
    lines.until(lambda sample: len(sample.kernel.queues) == 1)
    lines.until(lambda sample: sample.server is not None and sample.server.pids == (os.getpid(),))
    sockets.connect(listener, 11)
    lines.until(lambda sample: bool(sample.kernel.queues[0].overflows))
    listener.close()
    lines.until(lambda sample: sample.kernel.queues == ())
    lines.end()
    (found,) = read_record(tmp_path).listeners
    assert found.overflows is not None
    assert found.overflows >= 7
    assert [each.gone for each in found.sockets] == [True]


def test_without_privilege_it_goes_on_and_says_the_fix(
    start: Start, sockets: Sockets, nobody: tuple[tuple[str, ...], Path]
) -> None:
    listener = sockets.listen(3)
    sockets.connect(listener, 3)
    prefix, home = nobody
    results = home / "results"
    lines = watching(start, "--port", str(port_of(listener)), "--results", str(results), prefix=prefix)
    (queue,) = lines.next().kernel.queues
    assert (queue.depth, queue.capacity_each) == (3, 4)
    said = lines.end()
    assert "eBPF needs CAP_BPF and CAP_PERFMON" in said
    assert "run it as root (sudo)" in said
    record = read_record(results)
    assert uses(record)["accept_queue"].source == "sock_diag, once a second"
    assert "CAP_BPF" in record.unknown["listeners.0.wait_ms"]


def test_the_interval_and_the_time(start: Start, sockets: Sockets) -> None:
    listener = sockets.listen(3)
    given = ("--port", str(port_of(listener)), "--no-bpf", "--json", "--interval", "10m", "--for", "1s")
    lines = Lines(start("watch", *given))
    lines.rest()
    assert len(lines.samples) == 2  # the first half a second after the beginning, and the last at the end
    assert lines.samples[1].at_s >= 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "0"), "--port 0 is not between 1 and 65,535"),
        (("--port", "65536"), "--port 65536 is not between"),
        (("--pid", "0"), "there is no such process"),
        (("--pid", str(1 << 22)), "there is no such process"),
        (("--port", "80", "--interval", "10ms"), "--interval 10ms is shorter than 100ms"),
        (("--port", "80", "--interval", "soon"), "--interval"),
        (("--port", "80", "--for", "-3s"), "--for"),
        (("--fast",), "--fast"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, ...], said: str, start: Start) -> None:
    run = start("watch", *options).finish()
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_a_reader_that_goes_ends_it_quietly(start: Start, sockets: Sockets, tmp_path: Path) -> None:
    listener = sockets.listen(3)
    given = ("--port", str(port_of(listener)), "--no-bpf", "--results", str(tmp_path))
    lines = watching(start, *given)
    lines.next()
    assert lines.command.process.stdout is not None
    lines.command.process.stdout.close()
    assert lines.command.process.stderr is not None
    said = lines.command.process.stderr.read()
    assert lines.command.process.wait(60) == 0
    assert "Traceback" not in said
    assert "Broken pipe" not in said
    assert read_record(tmp_path).observer.samples >= 2


def test_its_memory_stays_small(start: Start, sockets: Sockets) -> None:
    need_probes()
    listener = sockets.listen(3)
    lines = watching(start, "--port", str(port_of(listener)))
    sample = lines.next()
    assert sample.observer_pss_bytes is not None
    assert sample.observer_pss_bytes < 60_000_000
    lines.end()


def test_its_descriptors_end_with_it(start: Start, sockets: Sockets) -> None:
    """Programs are in the kernel as long as a process has their descriptors, which are no other's."""
    need_probes()
    listener = sockets.listen(3)
    lines = watching(start, "--port", str(port_of(listener)))
    lines.next()
    assert any("bpf" in link for link in links_of(lines.command.pid))
    lines.end()
    assert eventually(lambda: not lines.command.processes())


def links_of(pid: int) -> list[str]:
    return [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]


def test_figures_are_shown_even_when_they_cannot_be_written(
    start: Start, sockets: Sockets, tmp_path: Path
) -> None:
    port = port_of(sockets.listen(3))
    lines = watching(start, "--port", str(port), "--no-bpf", "--results", str(tmp_path))
    lines.next()
    (directory,) = tmp_path.iterdir()
    shutil.rmtree(directory)
    lines.command.process.send_signal(signal.SIGINT)
    run = lines.command.finish()
    assert run.returncode == 1
    assert f"Watched port {port} for" in run.stderr
    assert "watch.json cannot be written" in run.stderr
    assert "Traceback" not in run.stderr
