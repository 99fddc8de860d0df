"""`connprobe limit` on real servers: what it predicts, what really happens, and its bad days."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from connprobe.model import Limit, Reading, RunRecord, Sample
from connprobe.session.started import taken
from running import CHECKOUT, Command, Listening, Run, check, eventually

Start = Callable[..., Command]
Limits = Callable[..., Run]
VICTIM = (sys.executable, str(CHECKOUT / "tests" / "victim.py"))
QUICK = ("--steps", "3", "--for", "0s")
TCP = (*QUICK, "--protocol", "tcp")


@pytest.fixture
def limit(start: Start) -> Limits:
    def run(*arguments: str, code: int = 0) -> Run:
        return check(start("limit", *arguments).finish(100), code)

    return run


def few_files(number: int, *command: str) -> tuple[str, ...]:
    return ("sh", "-c", f'ulimit -Sn {number}; exec "$@"', "sh", *command)


def stages(record: RunRecord) -> list[str]:
    return [reading.stage for reading in record.trials[0].readings]


def of(record: RunRecord, stage: str) -> Reading:
    return next(each for each in record.trials[0].readings if each.stage == stage)


def first(record: RunRecord) -> Limit:
    return record.limits[0]


def test_the_longest_message_goes_round(limit: Limits, free_port: Callable[[], int]) -> None:
    run = limit("--count", "20", "--message", "a" * 65_000, *TCP, "--", *VICTIM, str(free_port()))
    assert run.record.trials[0].messages == 20


def test_the_servers_descriptors_are_predicted_and_met(limit: Limits, free_port: Callable[[], int]) -> None:
    port = str(free_port())
    run = limit("--count", "97", "--verify", "--json", *TCP, "--", *few_files(512, *VICTIM, port))
    record = run.record
    assert record.command == "limit"
    assert record.outcome == "done"
    assert (first(record).resource, first(record).capacity) == ("nofile", 512)
    assert record.verified is not None
    assert (record.verified.side, record.verified.resource) == ("server", "nofile")
    assert "accept queue" in record.verified.cause
    assert record.verified.predicted == first(record).connections
    assert abs(record.verified.connections - first(record).connections) <= 1  # one that it accepted and lost
    assert record.headline is not None
    assert record.headline.startswith(f"This server stops at {first(record).connections:,} connections: file")
    assert stages(record)[:7] == ["start", "ramp", "ramp", "peak", "ramp", "idle", "messaging"]
    assert record.held == of(record, "idle").connections == 97
    assert of(record, "idle").use["process_fds"] - of(record, "start").use["process_fds"] == 97
    assert record.trials[0].messages == 97
    assert record.trials[0].message_ms is not None
    assert record.trials[0].message_ms.count == 97
    assert of(record, "drain").connections == 0
    assert {sample.phase for sample in run.samples} >= {
        "start",
        "ramp",
        "settle",
        "messaging",
        "verify",
        "drain",
    }
    times = [sample.at_s for sample in run.samples]
    assert times == sorted(times)


def test_verify_goes_up_to_some_times_the_count_with_the_workers_that_were_asked_for(
    limit: Limits, free_port: Callable[[], int]
) -> None:
    asked = ("--count", "30", "--workers", "3", "--verify", *TCP)
    run = limit(*asked, "--dry-run", "--json", "--", "true")
    plan = json.loads(run.stdout)["plan"]
    assert (plan["count"], plan["workers"]) == (300, 3)
    verified = limit(*asked, "--", *VICTIM, str(free_port())).record.verified
    assert verified is not None
    assert verified.cause == "300 were held, 10 times the count; --verify-up-to asks for more"


def test_haproxys_own_maximum_is_found_to_the_letter(limit: Limits) -> None:
    if shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("no haproxy: apt-get install haproxy")
    run = limit("--count", "101", "--verify", *QUICK, "--server", "haproxy", "--set", "maxconn=503")
    record = run.record
    assert (first(record).resource, first(record).connections) == ("server_config", 503)
    assert record.verified is not None
    assert (record.verified.connections, record.verified.resource) == (503, "server_config")
    assert (record.verified.error, record.verified.inside) == (0.0, True)
    assert run.says("This server stops at 503 connections: the server's own configuration, 503.")


def test_every_repeat_has_a_fresh_server(limit: Limits, free_port: Callable[[], int]) -> None:
    port = str(free_port())
    record = limit("--count", "61", "--repeat", "2", *TCP, "--", *few_files(512, *VICTIM, port)).record
    assert [trial.number for trial in record.trials] == [1, 2]
    assert [trial.held for trial in record.trials] == [61, 61]
    by_stage = {row.stage: row for row in record.stages}
    assert by_stage["idle"].connections.count == 2
    rss = by_stage["idle"].use["rss_bytes"]
    assert rss.low is not None
    assert rss.low <= rss.mean
    # Each server has the same room: a second one that inherited the first's connections would not.
    starts = [each for trial in record.trials for each in trial.readings if each.stage == "start"]
    assert starts[0].use["process_fds"] == starts[1].use["process_fds"]


def test_a_server_that_runs_already_is_attached_to_and_left_alone(
    limit: Limits, serve: Callable[..., Listening]
) -> None:
    server = serve("--protocol", "ws", "--mode", "echo")
    run = limit("--count", "53", *QUICK, "--target", server.target)
    assert run.record.held == 53
    assert run.record.server is not None
    assert set(run.record.server.pids) <= set(server.command.processes())
    assert {limit.resource for limit in run.record.limits} >= {"nofile", "source_ports"}
    told = {each.resource for each in run.record.limits} | {each.resource for each in run.record.left_out}
    assert "memory" in told  # where others' sockets go meanwhile it is no limit
    assert server.stop().returncode == 0


@pytest.fixture
def victim(free_port: Callable[[], int]) -> Iterator[Callable[..., int]]:
    """Starts an echo server with 512 descriptors, that is nobody of connprobe's, and returns its port."""
    with ExitStack() as ends:

        def begin(*wishes: str) -> int:
            port = free_port()
            command = few_files(512, *VICTIM, str(port), *wishes)
            server = ends.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            ends.callback(server.kill)
            assert eventually(lambda: taken(port) is not None)
            return port

        yield begin


@pytest.fixture
def running(victim: Callable[..., int]) -> int:
    return victim()


def test_others_that_come_and_go_widen_what_is_said_of_a_server(
    limit: Limits, start: Start, running: int
) -> None:
    address = ("127.0.0.1", running)
    others = [socket.create_connection(address) for _ in range(11)]
    command = start(
        "limit",
        "--count",
        "90",
        "--message-by",
        "none",
        *TCP,
        "--steps",
        "5",
        "--target",
        f"127.0.0.1:{running}",
    )
    assert command.results is not None
    samples = command.results

    def has_begun_the_second_step() -> bool:
        return any(
            msgspec.json.decode(line, type=Sample).held > 18
            for path in samples.glob("*/samples.jsonl")
            for line in path.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        )

    assert eventually(has_begun_the_second_step, 60)
    others += [socket.create_connection(address) for _ in range(17)]
    for each in others[:5]:
        each.close()
    run = check(command.finish(100), 0)
    for each in others:
        each.close()
    record = run.record
    known = [each.others for each in record.trials[0].readings if each.stage in ("start", "ramp")]
    assert known[0] == 11
    assert known[-1] == 23
    assert record.trials[0].held == 90
    assert run.says("Others opened or closed connections to the server too: it had 11 to 23 of theirs")
    nofile = next(each for each in record.limits if each.resource == "nofile")
    room = 512 - of(record, "start").use["process_fds"]  # beside the 11
    assert nofile.low <= room - 12
    assert room <= nofile.high
    assert nofile.note is not None
    assert "others' connections moved" in nofile.note


def test_others_that_wait_to_be_accepted_are_not_taken_for_ours(
    start: Start, victim: Callable[..., int]
) -> None:
    """A server so busy that a few of others' connections lie in its accept queue whenever it is looked at."""
    port = victim("doze=1")
    quick = (*TCP, "--settle", "3s", "--message-by", "none")
    command = start("limit", "--count", "60", *quick, "--target", f"127.0.0.1:{port}")
    others: list[socket.socket] = []

    def comes_and_goes() -> bool:
        others.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        if len(others) > 100:
            others.pop(0).close()
        return command.process.poll() is not None

    try:
        assert eventually(comes_and_goes, 100)
    finally:
        for each in others:
            each.close()
    run = check(command.finish(100), 0)
    assert run.record.trials[0].held == 60
    ramp = [each.connections for each in run.record.trials[0].readings if each.stage == "ramp"]
    assert ramp == [20, 40, 60]


def test_others_that_stay_are_told_of_and_change_nothing(limit: Limits, running: int) -> None:
    others = [socket.create_connection(("127.0.0.1", running)) for _ in range(13)]
    target = ("--target", f"127.0.0.1:{running}")
    run = limit("--count", "90", "--message-by", "none", "--verify", *TCP, *target)
    assert run.says("The server had 13 connections of others all the while: the numbers are of further ones")
    assert {each.others for each in run.record.trials[0].readings} <= {13, None}
    room = 512 - of(run.record, "start").use["process_fds"]
    assert first(run.record).low == first(run.record).connections == room
    assert run.record.verified is not None
    assert abs(run.record.verified.connections - room) <= 1
    for each in others:
        each.close()
    run = limit("--count", "31", "--message-by", "none", *TCP, *target)
    assert not run.says("of others")
    assert not run.says("Others")


def test_one_that_dies_in_the_ramp_is_said_to(limit: Limits, free_port: Callable[[], int]) -> None:
    victim = (*VICTIM, str(free_port()), "die-at=71")
    run = limit("--count", "100", *TCP, "--steps", "5", "--", *victim, code=4)
    record = run.record
    assert record.outcome == "missed"
    assert record.trials[0].broken == "the server died: exit status 7"
    assert record.verified is not None
    assert 60 <= record.verified.connections <= 80
    assert [each.connections for each in record.trials[0].readings if each.stage == "ramp"] == [20, 40, 60]
    assert run.directory is not None
    assert (run.directory / "server.log").read_text() == "no more: died as told\n"
    assert run.says("The server died: exit status 7")


def test_one_whose_connections_go_before_it_does(limit: Limits, free_port: Callable[[], int]) -> None:
    victim = few_files(512, *VICTIM, str(free_port()), "fade-at=480")
    run = limit("--count", "120", "--verify", *TCP, "--", *victim)
    assert run.record.verified is not None
    assert 475 <= run.record.verified.connections <= 500
    assert run.record.verified.cause == "the server died: killed by SIGKILL"


def test_one_that_turns_connections_away_is_not_given_a_number_by_arithmetic(
    limit: Limits, free_port: Callable[[], int]
) -> None:
    run = limit("--count", "90", *TCP, "--", *VICTIM, str(free_port()), "most=50", code=4)
    assert run.record.verified is not None
    assert run.record.verified.connections == 50
    assert run.record.headline is not None
    assert run.record.headline.startswith("It broke at 50 connections: it closed connections")


def test_one_that_turns_them_away_one_by_one_ends_a_verify(
    limit: Limits, free_port: Callable[[], int]
) -> None:
    """Of so few, 1 % is one connection: each step loses less than what one may lose."""
    asked = ("--count", "30", "--verify", "--verify-up-to", "400", "--message-by", "none", *TCP)
    record = limit(*asked, "--", *few_files(60, *VICTIM, str(free_port()), "most=45")).record
    assert record.verified is not None
    assert (record.verified.connections, record.verified.side) == (45, "server")
    assert "it closed connections" in record.verified.cause


def test_one_that_is_started_again_is_said_to_have_died(limit: Limits, free_port: Callable[[], int]) -> None:
    again = 'while :; do "$@"; done'
    victim = (*VICTIM, str(free_port()), "die-at=71")
    run = limit("--count", "100", *TCP, "--steps", "5", "--", "sh", "-c", again, "sh", *victim, code=4)
    assert run.record.verified is not None
    assert 60 <= run.record.verified.connections <= 80
    assert "took its place" in run.record.verified.cause


def test_one_that_closes_idle_connections_cannot_be_measured_so(
    limit: Limits, free_port: Callable[[], int]
) -> None:
    run = limit("--count", "60", *TCP, "--", *VICTIM, str(free_port()), "idle=1", code=4)
    assert run.says("It closed 20 of 20 connections while their memory settled: raise its idle timeout")
    assert run.record.verified is None
    assert run.record.dropped == 20


def test_what_the_accept_queue_dropped_is_not_counted(limit: Limits, free_port: Callable[[], int]) -> None:
    """The client's end of these is established: it never hears that its last packet was dropped."""
    victim = (*VICTIM, str(free_port()), "accept=60")
    run = limit("--count", "200", "--rate", "100", "--timeout", "3s", *TCP, "--", *victim, code=4)
    assert run.record.verified is not None
    assert 60 <= run.record.verified.connections <= 63  # its loop takes a few at once
    assert run.record.trials[0].held == run.record.verified.connections
    assert "accept" in run.record.verified.cause


def test_one_that_listens_by_ipv6_alone(limit: Limits, start: Start, free_port: Callable[[], int]) -> None:
    victim = (*VICTIM, str(free_port()), "address=::1")
    run = limit("--count", "31", *TCP, "--", *victim)
    assert run.record.held == 31
    assert run.record.target.startswith("[::1]:")
    with subprocess.Popen(victim) as server:
        try:
            assert eventually(lambda: taken(int(victim[2])) is not None)
            run = limit("--count", "31", *TCP, "--pid", str(server.pid))
            assert run.record.held == 31
        finally:
            server.kill()


def test_one_that_speaks_another_protocol_gets_no_number(limit: Limits, free_port: Callable[[], int]) -> None:
    port = str(free_port())
    command = (sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1")
    run = limit("--count", "40", "--verify", *QUICK, "--", *command, code=4)
    assert run.record.limits == ()
    assert run.record.left_out == ()
    assert run.record.verified is None
    said = "Not one connection was made: not a WebSocket endpoint: it answered like an ordinary page; --path"
    assert run.says(said)


def test_one_that_never_listens_is_given_up(limit: Limits) -> None:
    run = limit("--startup", "1s", "--", *VICTIM, "0", "deaf", code=1)
    assert run.says("the server did not listen within 1 s")


def test_one_that_ends_at_once_is_quoted(limit: Limits) -> None:
    run = limit("--", "sh", "-c", "echo no license >&2; exit 3", code=1)
    assert run.says("the server ended before it listened (exit status 3); its last words: no license")


def test_a_taken_port_is_an_obstacle_and_nothing_is_started(limit: Limits, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = limit("--port", str(port), "--", "touch", str(mark), code=3)
    assert run.says(f"process {os.getpid()} listens on it")
    assert not mark.exists()


def test_a_daemon_is_found_and_ended(limit: Limits, free_port: Callable[[], int]) -> None:
    run = limit("--count", "31", *TCP, "--", *VICTIM, str(free_port()), "daemon")
    assert run.record.held == 31
    assert of(run.record, "idle").use["process_fds"] - of(run.record, "start").use["process_fds"] == 31


def test_memory_that_never_settles_is_said_and_widens(limit: Limits, free_port: Callable[[], int]) -> None:
    run = limit("--count", "31", *TCP, "--settle", "3s", "--", *VICTIM, str(free_port()), "leak")
    assert "start" in run.record.trials[0].unsettled
    assert run.says("memory did not settle within 3 s")
    memory = next((each for each in run.record.limits if each.resource == "memory"), None)
    assert memory is None or memory.low < memory.connections / 2


# Takes memory as long as there are some connections, but no more than the first step of them.
UNEASY = """
import asyncio, sys
held, hoard = set(), []
async def serve(reader, writer):
    held.add(writer)
    while data := await reader.read(4096):
        writer.write(data)
    held.discard(writer)
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    while True:
        if 0 < len(held) <= 20:
            hoard.append(b"x" * 400_000)
        await asyncio.sleep(0.05)
asyncio.run(main())
"""


def test_a_step_that_does_not_settle_says_nothing_of_the_next(
    limit: Limits, free_port: Callable[[], int]
) -> None:
    command = (sys.executable, "-c", UNEASY, str(free_port()))
    run = limit("--count", "60", "--message-by", "none", *TCP, "--settle", "6s", "--", *command)
    ramp = [each for each in run.record.trials[0].readings if each.stage == "ramp"]
    assert [each.settled for each in ramp] == [False, True, True]
    assert run.record.trials[0].unsettled == ("ramp",)


NODE = "require('net').createServer((each) => each.resume()).listen(+process.argv[1], '127.0.0.1', 4096)"


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here: apt-get install nodejs")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else: sudo scripts/test")
def test_the_heap_of_a_server_that_becomes_somebody_else_is_read(
    limit: Limits, free_port: Callable[[], int]
) -> None:
    port, nobody = str(free_port()), ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    options = ("--count", "150", "--message-by", "none", *TCP)
    run = limit(*options, "--", *nobody, "node", "-e", NODE, port)
    assert run.record.runtime is not None
    assert run.record.runtime.name.startswith("Node")
    assert all("heap_bytes" in of(run.record, stage).use for stage in ("start", "ramp", "idle"))


# Connections are handed to a worker thread by nobody: it listens itself.
THREAD = """
const { Worker, isMainThread, workerData } = require('worker_threads');
if (isMainThread) {
  const limits = { maxOldGenerationSizeMb: 32 };
  new Worker('setInterval(() => {}, 1000)', { eval: true, env: {} });
  new Worker(__filename, { workerData: +process.argv[2], resourceLimits: limits });
} else {
  const kept = [];
  require('net').createServer((each) => kept.push(each, new Array(5000).fill(null)) && each.resume())
    .listen(workerData, '127.0.0.1', 4096);
}
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here: apt-get install nodejs")
def test_the_heap_of_the_worker_thread_that_has_the_connections(
    limit: Limits, free_port: Callable[[], int], tmp_path: Path
) -> None:
    script = tmp_path / "threads.js"
    script.write_text(THREAD)
    options = ("--count", "150", "--message-by", "none", *TCP)
    record = limit(*options, "--", "node", str(script), str(free_port())).record
    heap = first(record)
    assert (heap.resource, heap.capacity) == ("heap", 32 << 20)
    assert ", worker thread 2)" in heap.scope
    assert "1 worker thread did not tell" in record.unknown["runtime.worker_threads"]


# Three processes accept from one listener, and get uneven shares.
FORKING = """
import os, select, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=512)
for _ in range(2):
    if not os.fork():
        break
poll, held = select.epoll(), []
poll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
listener.setblocking(False)
while True:
    poll.poll()
    try:
        held.append(listener.accept()[0])
    except BlockingIOError:
        pass
"""


def test_the_descriptors_of_uneven_workers_are_a_limit_of_few_readings_too(
    limit: Limits, free_port: Callable[[], int]
) -> None:
    command = few_files(2000, sys.executable, "-c", FORKING, str(free_port()))
    options = ("--count", "300", "--message-by", "none", *TCP, "--steps", "2")
    run = limit(*options, "--", *command)
    (nofile,) = [each for each in run.record.limits if each.resource == "nofile"]
    assert 1900 <= nofile.low <= nofile.connections <= nofile.high <= 6000
    assert first(run.record).resource == "nofile"
    assert run.says("file descriptors, 2,000")
    assert run.record.server is not None
    assert not [each for each in run.record.limits if f"--pid {run.record.server.pids[0]}" in each.fix]


def test_a_process_that_only_waits_for_the_server_takes_no_cpu_of_it(
    limit: Limits, free_port: Callable[[], int]
) -> None:
    wrapped = ("sh", "-c", '"$@"; :', "sh", *VICTIM, str(free_port()))
    # Messages that take many ticks of the CPU's clock: fewer than one in all may be none.
    record = limit("--count", "400", *TCP, "--message", "a" * 65_000, "--", *wrapped).record
    assert record.server is not None
    assert len(record.server.pids) == 2
    (cpu,) = [each for each in record.limits if each.resource == "cpu"]
    assert cpu.capacity == 1


def test_ctrl_c_ends_the_server_too(start: Start, free_port: Callable[[], int]) -> None:
    command = start("limit", "--count", "50", *TCP, "--", *VICTIM, str(free_port()))
    command.sampled("ramp")
    command.interrupt()
    run = check(command.finish(), 130)
    assert run.record.outcome == "interrupted"


def test_no_server_outlives_a_connprobe_that_was_killed(start: Start, free_port: Callable[[], int]) -> None:
    command = start("limit", "--count", "50", *TCP, "--", *VICTIM, str(free_port()), "daemon")
    command.sampled("ramp")
    assert len(command.processes()) >= 4
    command.process.send_signal(signal.SIGKILL)
    command.process.communicate()
    assert eventually(lambda: not command.processes()), command.processes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no server is named"),
        (("--server", "node-array", "--", "true"), "both --server and a command"),
        (("--server", "nothing"), "there is no reference server 'nothing'"),
        (("--set", "heap_mb=40", "--", "true"), "--set is for a reference server"),
        (("--repeat", "2", "--target", "127.0.0.1:9"), "needs a fresh server each time"),
        (("--", "no-such-program-anywhere"), "there is no such program"),
        (("--heap-limit", "much", "--", "true"), "'much' is not a size"),
        (("--target", "127.0.0.1:9", "--", "true"), "--target is for a server that runs already"),
        (("--target", "127.0.0.1:9", "--server", "nginx"), "--target is for a server that runs already"),
        (("--message", "", "--", "true"), "--message-by none"),
        (("--message", "a\udcff", "--", "true"), r"--message 'a\udcff' is not UTF-8"),
        (("--message", "a" * 65001, "--", "true"), "--message is 65,001 bytes long, the longest is 65,000"),
        (("--", "true", "a\udcff"), r"'a\udcff' of the command is not UTF-8"),
        (("--message-path", "x", "--", "true"), "'x' is not a path"),
        (("--message-path", "/x", "--message-by", "none", "--", "true"), "is for --message-by server"),
        (("--verify-up-to", "9999", "--", "true"), "--verify-up-to is for --verify"),
        (("--latency-limit", "1s", "--", "true"), "--latency-limit is for --verify"),
        (("--inspect", "--", "true"), "--inspect is for a server that runs already"),
        (("--", "/etc/passwd"), "it cannot be executed"),
    ],
)
def test_what_makes_no_sense_is_refused(limit: Limits, arguments: tuple[str, ...], said: str) -> None:
    assert limit(*arguments, code=2).says(said)
