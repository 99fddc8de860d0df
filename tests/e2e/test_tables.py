"""`hold` and `watch` end with the limits of real servers, and those are where the servers end."""

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from connprobe.errors import RunFailed
from connprobe.model import Limit, WatchRecord
from connprobe.session.started import StartedServer
from connprobe.targets import ready
from running import Command, Run, eventually

Holds = Callable[..., Run]
Start = Callable[..., Command]
NOFILE = 1009
WATCHED = 12  # readings before anything is done: connections are not counted at each


class Reference:
    """A reference server of targets/, with `nofile` descriptors."""

    def __init__(self, started: StartedServer, port: int) -> None:
        self.started, self.port, self.target = started, port, f"127.0.0.1:{port}"

    @property
    def fds(self) -> int:
        return Path(f"/proc/{self.started.pid}/fd").stat().st_size


@pytest.fixture
def reference(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Reference]]:
    running: list[StartedServer] = []

    def begin(name: str, *, nofile: int = NOFILE, **options: str) -> Reference:
        port = free_port()
        try:
            how = ready(name, port, tmp_path, options)
        except RunFailed as missing:
            pytest.skip(f"{missing.message}: {missing.fix}")
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        path = tmp_path / f"{name}.log"
        with path.open("w+b") as log:
            running.append(StartedServer(how.command, how.environment, log, path, (nofile, hard)))
        running[-1].wait_until_listening(port, 60.0, lambda: False)
        return Reference(running[-1], port)

    yield begin
    for each in running:
        each.stop()


def named(limits: tuple[Limit, ...]) -> dict[str, Limit]:
    return {limit.resource: limit for limit in limits}


def test_a_hold_names_the_descriptor_at_which_python_ends(
    start: Start, hold: Holds, reference: Callable[..., Reference]
) -> None:
    server = reference("python-asyncio")
    options = ("--target", server.target, "--protocol", "tcp")
    idle = server.fds
    run = hold(*options, "--count", "401", "--for", "1s")
    first = run.record.limits[0]
    assert (first.resource, first.capacity) == ("nofile", NOFILE)
    assert first.connections == first.low == first.high == NOFILE - idle
    assert run.record.headline is not None
    assert f"at {NOFILE - idle:,} connections: file descriptors, {NOFILE:,}" in run.record.headline
    assert {growth.metric for growth in run.record.growth} >= {"process_fds", "threads"}
    # And there it ends: of more connections it takes no more than these.
    more = start("hold", *options, "--count", "1301", "--for", "60s")
    assert eventually(lambda: server.fds >= NOFILE)
    assert server.fds - idle == first.connections
    more.process.send_signal(signal.SIGINT)
    assert "This server stops at" in more.finish().stdout


def test_a_hold_names_the_maxconn_of_haproxy(hold: Holds, reference: Callable[..., Reference]) -> None:
    server = reference("haproxy", nofile=20_000, maxconn="409")
    run = hold("--target", server.target, "--protocol", "http", "--count", "199", "--for", "1s")
    first = run.record.limits[0]
    assert (first.resource, first.connections, first.low, first.high) == ("server_config", 409, 409, 409)


def test_the_heap_of_node_is_said_to_be_unread(hold: Holds, reference: Callable[..., Reference]) -> None:
    server = reference("node-ws")
    record = hold("--target", server.target, "--count", "97", "--for", "1s").record
    assert "connprobe limit" in record.unknown["limits.heap"]
    assert record.headline is not None
    assert "at the latest" in record.headline
    assert "the heap of V8" in record.headline
    assert "nofile" in named(record.limits)


def test_a_hold_that_is_interrupted_in_its_ramp_makes_no_figure_up(
    start: Start, reference: Callable[..., Reference]
) -> None:
    server = reference("python-asyncio")
    options = ("--protocol", "tcp", "--count", "401", "--rate", "20")
    command = start("hold", "--json", "--target", server.target, *options)
    command.sampled("ramp")
    command.process.send_signal(signal.SIGINT)
    run = command.finish()
    assert run.returncode == 130
    assert "nofile" not in named(run.record.limits)
    assert not run.record.growth
    assert "end of the hold" in run.record.unknown["limits"]


def read(results: Path) -> WatchRecord:
    (path,) = results.glob("*-watch-*/watch.json")
    return msgspec.json.decode(path.read_bytes(), type=WatchRecord)


def watch(start: Start, server: Reference, results: Path) -> Command:
    options = ("--port", str(server.port), "--no-bpf", "--interval", "200ms", "--results", str(results))
    command = start("watch", *options, "--json")
    assert command.process.stdout is not None
    for _ in range(WATCHED):
        assert command.process.stdout.readline()
    return command


def test_a_watch_beside_a_hold_names_the_same(
    start: Start, hold: Holds, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    server = reference("python-asyncio")
    idle = server.fds
    beside = watch(start, server, tmp_path / "watch")
    options = ("--protocol", "tcp", "--count", "401", "--rate", "150", "--for", "4s")
    record = hold("--target", server.target, *options).record
    beside.process.send_signal(signal.SIGINT)
    run = beside.finish()
    assert run.returncode == 0, run.stderr
    assert f"file descriptors, {NOFILE:,}" in run.stderr
    watched = read(tmp_path / "watch")
    assert (watched.connections_fewest, watched.connections_most) == (0, 401)
    assert watched.limits[0].resource == "nofile"
    assert watched.limits[0].connections == record.limits[0].connections == NOFILE - idle
    assert watched.headline is not None
    assert "limits" not in watched.unknown


def test_a_watch_of_connections_that_stay_says_that_they_tell_nothing(
    start: Start, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    server = reference("python-asyncio")
    options = ("--protocol", "tcp", "--count", "97", "--for", "60s")
    holding = start("hold", "--target", server.target, *options)
    holding.sampled("hold")
    beside = watch(start, server, tmp_path / "watch")
    beside.process.send_signal(signal.SIGINT)
    assert beside.finish().returncode == 0
    watched = read(tmp_path / "watch")
    assert watched.unknown["limits"].startswith("there were 97 connections all the time")
    assert "nofile" not in named(watched.limits)
    assert not watched.growth
    holding.process.send_signal(signal.SIGINT)
    holding.finish()
