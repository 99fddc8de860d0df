"""Servers and hosts on a bad day: every connection is counted under its cause, and the cause has a fix."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import servers
from connprobe.plan.advice import advice
from running import Command, Listening, Namespace, Run, check, eventually, read_plan
from servers import OddServer

COUNT = 23


@dataclass
class Day:
    """A behaviour, and what becomes of COUNT connections to it: `number` lost by `cause`."""

    behaviour: servers.Behaviour
    cause: str
    detail: str
    established: bool = False
    number: int = COUNT
    options: tuple[str, ...] = ()


def half(index: int) -> bool:
    return index % 2 == 0


def every(index: int) -> bool:
    return True


def close_after_a_second(connection: servers.Connection) -> None:
    connection.upgrade()
    connection.server.gate.wait(1)


HALF = len([index for index in range(COUNT) if half(index)])
HTTP, TCP = ("--protocol", "http"), ("--protocol", "tcp")
DAYS = {
    "resets before it answers": Day(servers.reset_at_once, "reset", "ECONNRESET"),
    "closes before it answers": Day(servers.close_at_once, "eof", "before any response"),
    "never answers": Day(servers.mute, "timeout", "was not answered", options=("--timeout", "1s")),
    "answers 503": Day(
        servers.answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
        "rejected",
        "503 Service Unavailable",
    ),
    "answers 200 to an upgrade": Day(servers.answering(servers.OK), "rejected", "200 OK"),
    "answers with a wrong accept key": Day(
        servers.wrong_accept_key, "protocol", "101 with a wrong Sec-WebSocket-Accept"
    ),
    "answers garbage": Day(servers.garbage, "protocol", "the answer is not HTTP/1"),
    "answers garbage to HTTP": Day(servers.garbage, "protocol", "the answer is not HTTP/1", options=HTTP),
    "answers with a megabyte of head": Day(servers.huge_head, "protocol", "response head exceeds"),
    "closes after its response": Day(
        servers.answering(servers.OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)),
        "protocol",
        "closes after its response",
        options=HTTP,
    ),
    "sends a response that ends with the connection": Day(
        servers.answering(b"HTTP/1.1 200 OK\r\n\r\nuntil I close"),
        "protocol",
        "no keep-alive",
        options=HTTP,
    ),
    "resets right after the handshake": Day(
        servers.once_all_are_open(1, every, servers.Connection.reset), "reset", "ECONNRESET", True
    ),
    "closes after a second": Day(close_after_a_second, "eof", "closed by the server", True),
    "closes half of them": Day(
        servers.once_all_are_open(COUNT, half, lambda connection: None),
        "eof",
        "closed by the server",
        True,
        HALF,
    ),
    "resets half of them": Day(
        servers.once_all_are_open(COUNT, half, servers.Connection.reset), "reset", "ECONNRESET", True, HALF
    ),
    "sends close frames to half": Day(
        servers.once_all_are_open(COUNT, half, servers.say_goodbye), "eof", "close frame 1001", True, HALF
    ),
    "closes half of them, spoken to by HTTP": Day(
        servers.once_all_are_open(COUNT, half, lambda connection: None, servers.answer_once),
        "eof",
        "closed by the server",
        True,
        HALF,
        HTTP,
    ),
    "resets half of them, spoken to by HTTP": Day(
        servers.once_all_are_open(COUNT, half, servers.Connection.reset, servers.answer_once),
        "reset",
        "ECONNRESET",
        True,
        HALF,
        HTTP,
    ),
    "closes half of them, silent": Day(
        servers.once_all_are_open(COUNT, half, lambda connection: None, servers.answer_nothing),
        "eof",
        "closed by the server",
        True,
        HALF,
        TCP,
    ),
    "resets half of them, silent": Day(
        servers.once_all_are_open(COUNT, half, servers.Connection.reset, servers.answer_nothing),
        "reset",
        "ECONNRESET",
        True,
        HALF,
        TCP,
    ),
    "answers no ping": Day(
        servers.upgrade_then_mute, "timeout", "no pong", True, options=("--timeout", "1s")
    ),
}


def live(day: Day, results: Path) -> tuple[Run, int, int]:
    """The run, connections the server accepted, and those it had open at the most."""
    with OddServer(day.behaviour) as server:
        given = ("--target", server.target, "--count", str(COUNT), "--for", "1500ms", *day.options)
        command = Command("hold", *given, results=results)
        try:
            run = command.finish()
        finally:
            command.end()
    return run, server.accepted, server.counts["close answered"]


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[tuple[Run, int, int]]]]:
    """All of DAYS, a few at a time: most of each is waiting."""
    with ThreadPoolExecutor(5) as pool:
        yield {
            name: pool.submit(live, day, tmp_path_factory.mktemp("day") / "results")
            for name, day in DAYS.items()
        }


@pytest.mark.parametrize("name", DAYS)
def test_a_server_that(name: str, days: dict[str, Future[tuple[Run, int, int]]]) -> None:
    day = DAYS[name]
    run, accepted, goodbyes = days[name].result()
    record = check(run, 4).record
    lost = {day.cause: day.number}
    assert (record.failures, record.drops) == (({}, lost) if day.established else (lost, {}))
    assert record.held == COUNT - day.number
    assert (accepted, record.not_attempted) == (COUNT, 0)
    details = (record.drop_details if day.established else record.failure_details)[day.cause]
    (detail,) = details
    assert day.detail in detail
    assert run.says(advice(day.cause, day.established, detail).fix)
    assert run.says(detail)
    assert goodbyes == (day.number if "close frame" in day.detail else 0)


def test_nothing_listens(start: Callable[..., Command]) -> None:
    sock, target = servers.closed_port()
    with sock:
        run = check(start("hold", "--target", target, "--count", "97").finish(), 4)
    assert run.record.failures == {"refused": 97}
    assert run.says(advice("refused", False).fix)


def test_a_hopeless_run_is_given_up(hold: Callable[..., Run]) -> None:
    sock, target = servers.closed_port()
    with sock:
        record = hold("--target", target, "--count", "100003", "--rate", "20000", code=4).record
    assert record.failures == {"refused": record.failed}
    assert 1000 <= record.failed < 100003
    assert any("Gave up" in verdict.text for verdict in record.verdicts)


def test_an_answer_byte_by_byte_is_as_good_as_any(hold: Callable[..., Run]) -> None:
    with OddServer(servers.byte_by_byte) as server:
        record = hold("--target", server.target, "--count", "97", "--for", "300ms").record
    assert (record.held, server.accepted) == (97, 97)


# workers and servers that die


def sources(run: Run, worker: int) -> set[str]:
    return {share.address for share in read_plan(run).shards[worker].sources}


def test_descriptors_that_run_out(start: Callable[..., Command]) -> None:
    """Somebody takes them from the worker in its ramp: no plan can know."""
    with OddServer(servers.websocket) as server:
        given = ("hold", "--target", server.target, "--count", "97", "--workers", "1", "--rate", "40")
        command = start(*given, "--for", "300ms")
        server.wait("open", 11)
        worker = command.named("connprobe-w-0")
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (64, 64))
        run = check(command.finish(), 4)
    record = run.record
    assert set(record.failures) == {"fd_limit"}
    assert 11 <= record.held == 97 - record.failed < 64
    assert run.says(advice("fd_limit", False).fix)


def test_a_target_that_loses_its_address(
    start: Callable[..., Command], namespace: Callable[[str], Namespace]
) -> None:
    home = namespace("ip address add 10.9.1.1/32 dev lo; ip address add 10.98.0.1/32 dev lo")
    serving = ("serve", "--protocol", "tcp", "--listen", "10.98.0.1:8080", "--processes", "1")
    server = Listening(start(*serving, prefix=home.prefix))
    given = ("hold", "--target", server.target, *TCP, "--count", "97", "--sources", "10.9.1.1")
    command = start(*given, "--rate", "40", "--for", "300ms", prefix=home.prefix)
    assert eventually(lambda: len(home.run("ss", "-tnH", "dst", "10.98.0.1").splitlines()) > 10)
    home.run("ip", "address", "del", "10.98.0.1/32", "dev", "lo")
    run = check(command.finish(), 4)
    record = run.record
    assert set(record.failures) == {"unreachable"}
    assert 0 < record.held == 97 - record.failed
    assert run.says(advice("unreachable", False, "ENETUNREACH").fix)


def test_no_way_to_the_target(start: Callable[..., Command], namespace: Callable[[str], Namespace]) -> None:
    home = namespace("ip route add unreachable 10.98.0.0/16")
    run = start("hold", "--target", "10.98.0.1:80", "--count", "23", prefix=home.prefix).finish()
    assert (run.returncode, run.directory) == (1, None)
    assert run.says("no route to 10.98.0.1: No route to host")
    assert run.says("fix: ip route get 10.98.0.1")
    assert not any(word in run.stderr for word in ("Traceback", "internal error"))


def test_source_ports_that_somebody_else_has(start: Callable[..., Command]) -> None:
    source = f"127.{random.randrange(16, 240)}.{random.randrange(256)}.7"
    with OddServer(servers.mute) as server, ExitStack() as others:
        for port in (20303, 20304, 20305):
            other = others.enter_context(socket.socket())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, servers.RESET)
            other.bind((source, port))
            other.connect(("127.0.0.1", server.port))
        given = ("hold", "--target", server.target, "--count", "23", *TCP, "--for", "300ms")
        run = start(*given, "--sources", source, "--source-ports", "20301-20323").finish()
    record = check(run, 4).record
    assert (record.held, record.failures) == (20, {"no_source_port": 3})
    assert run.says(advice("no_source_port", False).fix)


def test_a_worker_killed_in_the_ramp(start: Callable[..., Command]) -> None:
    """Worker 0 has some open, some in flight and some not begun; the others go on."""

    def behave(connection: servers.Connection) -> None:
        if connection.index >= 40:
            connection.server.gate.wait(servers.PATIENCE_S)
        servers.websocket(connection)

    with OddServer(behave) as server:
        command = start(
            *("hold", "--target", server.target, "--count", "97", "--workers", "3"),
            *("--concurrency", "21", "--for", "300ms"),
        )
        server.wait("accepted", 61)
        os.kill(command.named("connprobe-w-0"), signal.SIGKILL)
        server.gate.set()
        run = check(command.finish(), 4)
    record = run.record
    share = read_plan(run).shards[0].count
    lost = record.failures["worker_lost"] + record.drops.get("worker_lost", 0)
    assert (lost, record.held) == (share, 97 - share)
    assert record.failed + record.dropped == share
    assert run.says("Worker 0 was lost in the run: killed by SIGKILL")
    assert run.says(advice("worker_lost", False).fix)


def test_a_worker_killed_in_the_hold(start: Callable[..., Command]) -> None:
    with OddServer(servers.websocket) as server:
        command = start("hold", "--target", server.target, "--count", "97", "--workers", "3", "--for", "2s")
        command.sampled("hold")
        os.kill(command.named("connprobe-w-1"), signal.SIGKILL)
        run = check(command.finish(), 4)
    share = read_plan(run).shards[1].count
    assert (run.record.failures, run.record.drops) == ({}, {"worker_lost": share})
    assert run.record.held == 97 - share
    assert run.says("Worker 1 was lost in the run: killed by SIGKILL")


def test_all_workers_killed(start: Callable[..., Command]) -> None:
    with OddServer(servers.websocket) as server:
        command = start("hold", "--target", server.target, "--count", "23", "--workers", "1")
        command.sampled("hold")
        os.kill(command.named("connprobe-w-0"), signal.SIGKILL)
        run = check(command.finish(), 4)
    assert (run.record.held, run.record.drops) == (0, {"worker_lost": 23})


def test_the_embedded_server_killed_in_the_hold(start: Callable[..., Command]) -> None:
    command = start("hold", "--count", "97", "--for", "2s")
    command.sampled("hold")
    os.kill(command.named("connprobe-s-0"), signal.SIGKILL)
    run = check(command.finish(), 4)
    assert run.record.dropped > 0
    assert run.says("A process of the embedded server killed by SIGKILL")


# interruptions


def by_keyboard(command: Command) -> None:
    command.interrupt()


def by_sigterm(command: Command) -> None:
    command.process.terminate()


def by_hangup(command: Command) -> None:
    command.process.send_signal(signal.SIGHUP)


INTERRUPTIONS = pytest.mark.parametrize("interrupt", [by_keyboard, by_sigterm, by_hangup])


@INTERRUPTIONS
def test_interrupted_in_the_ramp(start: Callable[..., Command], interrupt: Callable[[Command], None]) -> None:
    def behave(connection: servers.Connection) -> None:
        (servers.websocket if connection.index < 7 else servers.mute)(connection)

    with OddServer(behave) as server:
        command = start("hold", "--target", server.target, "--count", "97", "--concurrency", "31")
        server.wait("accepted", 38)
        interrupt(command)
        run = check(command.finish(timeout_s=5), 130)
    record = run.record
    assert record.outcome == "interrupted"
    assert (record.held, record.failed, record.dropped, record.not_attempted) == (7, 0, 0, 90)
    assert run.says("Interrupted in the ramp: 7 of 97")


@pytest.mark.parametrize("phase", ["ramp", "hold"])
def test_many_are_interrupted(start: Callable[..., Command], phase: str) -> None:
    """With all probes, where there are any."""
    slowly = ("--rate", "4000") if phase == "ramp" else ()
    command = start("hold", "--count", "20011", "--for", "10m", *slowly, bpf=True)
    command.sampled(phase, '"held":' if phase == "hold" else '"established":')
    command.interrupt()
    run = check(command.finish(timeout_s=5), 130)
    record = run.record
    assert record.outcome == "interrupted"
    assert (record.held + record.not_attempted, record.failed, record.dropped) == (20011, 0, 0)


@INTERRUPTIONS
def test_interrupted_in_the_hold(start: Callable[..., Command], interrupt: Callable[[Command], None]) -> None:
    command = start("hold", "--count", "97", "--workers", "2", "--for", "10m")
    command.sampled("hold")
    interrupt(command)
    run = check(command.finish(timeout_s=5), 130)
    assert (run.record.held, run.record.outcome) == (97, "interrupted")
    assert run.record.unknown["held"].startswith("not checked")


@pytest.mark.parametrize("name", ["connprobe-s-z", "connprobe-w-z", "python", "connprobe-w-0"])
def test_ctrl_c_while_processes_start(start: Callable[..., Command], name: str) -> None:
    """At the moment that one of that name is seen, beside the command itself."""
    command = start("hold", "--count", "23", "--for", "10m")
    assert eventually(
        lambda: any(name in comm for pid, comm in command.processes().items() if pid != command.pid)
    )
    command.interrupt()
    check(command.finish(timeout_s=10), 130)


def test_counts_add_up_when_interrupted_amid_losses(start: Callable[..., Command]) -> None:
    """The server drops connections all the time: what is counted must be of one moment."""

    def behave(connection: servers.Connection) -> None:
        connection.upgrade()
        connection.server.gate.wait(0.05)

    with OddServer(behave) as server:
        command = start("hold", "--target", server.target, "--count", "100003", "--rate", "2000")
        server.wait("closed", 499)
        command.interrupt()
        run = check(command.finish(timeout_s=5), 130)
    assert run.record.drops == {"eof": run.record.dropped}
    assert run.record.dropped >= 100


@pytest.mark.parametrize("phase", ["ramp", "hold"])
def test_nothing_outlives_a_killed_command(start: Callable[..., Command], phase: str) -> None:
    rate = ("--rate", "20") if phase == "ramp" else ()
    command = start("hold", "--count", "199", "--workers", "2", "--for", "10m", *rate)
    command.sampled(phase)
    command.named("connprobe-w-1")
    run = command.finish(kill=True)  # waits for every process it had
    assert run.returncode == -signal.SIGKILL
    assert run.samples


# results that cannot be written


def test_results_directory_of_somebody_else(
    start: Callable[..., Command], nobody: tuple[tuple[str, ...], Path], tmp_path: Path
) -> None:
    prefix, home = nobody
    locked = home / "locked"
    locked.mkdir(mode=0o755)
    run = start("hold", "--count", "23", prefix=prefix, results=locked).finish()
    assert (run.returncode, run.directory, list(locked.iterdir())) == (3, None, [])
    assert run.says("results directory")
    assert run.says("Permission denied")
    assert run.says("--results")
    assert not any(word in run.stderr for word in ("ramp", "Traceback", "internal error"))


def test_an_ordinary_user_can_hold(
    start: Callable[..., Command], nobody: tuple[tuple[str, ...], Path]
) -> None:
    prefix, home = nobody
    run = check(
        start(
            *("hold", "--count", "97", "--for", "300ms", "--json"), prefix=prefix, results=home / "results"
        ).finish(),
        0,
    )
    assert run.record.held == 97
    assert run.directory is not None
    assert run.directory.stat().st_uid == 65534


def test_a_user_who_may_have_no_further_process(
    start: Callable[..., Command], nobody: tuple[tuple[str, ...], Path]
) -> None:
    prefix, home = nobody
    few = (*prefix, "prlimit", "--nproc=1")
    command = start("hold", "--count", "97", "--for", "0s", prefix=few, results=home / "results")
    run = command.finish()
    assert run.returncode == 1
    assert run.stderr.startswith("connprobe: no process can be started: Resource temporarily unavailable")
    assert "ulimit -u: 1)" in run.stderr
    assert "fix: ulimit -u" in run.stderr


def test_a_full_disk_is_said_before_the_ramp(
    start: Callable[..., Command], tmp_path: Path, namespace: Callable[[str], Namespace]
) -> None:
    place = tmp_path / "small"
    place.mkdir()
    home = namespace(f"mount -t tmpfs -o size=1m none {place}")
    run = start("hold", "--count", "23", prefix=home.prefix, results=place).finish()
    assert run.returncode == 3
    assert run.says("bytes free")
    assert run.says("free some space there")
    assert not any(word in run.stderr for word in ("Traceback", "internal error"))
    assert home.run("ls", "-A", str(place)) == ""


def test_a_disk_that_fills_up_during_the_run(
    start: Callable[..., Command],
    serve: Callable[..., Listening],
    tmp_path: Path,
    namespace: Callable[[str], Namespace],
) -> None:
    """The summary is printed nevertheless."""
    place = tmp_path / "small"
    place.mkdir()
    home = namespace(f"mount -t tmpfs -o size=12m none {place}")
    server = serve(prefix=home.prefix).target
    command = start(
        *("hold", "--target", server, "--count", "23", "--for", "1500ms", "--rate", "20"),
        prefix=home.prefix,
        results=place,
    )
    inside = Path(f"/proc/{home.process.pid}/root{place}")
    assert eventually(lambda: any(path.stat().st_size for path in inside.glob("*/samples.jsonl")))
    filled = subprocess.run(["dd", "if=/dev/zero", f"of={inside}/filler"], check=False, capture_output=True)
    assert b"No space left on device" in filled.stderr
    run = command.finish()
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert run.says("Held 23 of 23 WebSocket connections")
    assert run.says("cannot be written: No space left on device")
    assert run.says("free some space")


# what cannot be, said before anything is touched

USAGE = {
    "--count 0": "--count 1",
    "--count -5": "--count 1",
    f"--count {10**30}": "--count",
    "--count many": "--count",
    "--target 127.0.0.1": "host:8080",
    "--target 127.0.0.1:0": "host:8080",
    "--target 127.0.0.1:65536": "host:8080",
    "--target ::1:80": "needs brackets",
    "--target http://localhost:80/ws": "--path",
    "--header Nonsense": "--header",
    "--header Bad\u00e4:value": "--header",
    "--for soon": "--for 30s",
    "--for -1s": "--for 30s",
    "--ping often": "--ping 30s",
    "--ping 1ms": "--ping 30s",
    "--ping 1s --protocol tcp": "--protocol ws",
    "--timeout x": "--timeout 30s",
    "--alias lo": "--alias eth0:10.0.0.0/24",
    "--alias lo:10.0.0.0/99": "10.0.0.0/24",
    "--sources 300.0.0.1": "10.0.0.2",
    "--sources 127.0.0.9-127.0.0.1": "127.0.0.1-127.0.0.9",
    "--sources ::1": "--sources auto",
    "--sources 192.0.2.77": "--alias",
    "--source-ports 9-5": "--source-ports 1024-65535",
    "--workers 0": "--workers auto",
    "--workers 24": "--workers auto",
    "--rate 0": "--rate 500",
    "--rate nan": "--rate 500",
    "--path ws": "--path /ws",
    "--insecure": "--tls",
    "--tls --ca /nowhere.pem": "--ca FILE.pem",
    "--fail-under 24": "--fail-under 23",
    "--http-mode stream": "--protocol http",
    "--protocol http --http-mode longpoll": "--target HOST:PORT",
    "--reconnect --reconnect-attempts 0": "--reconnect-attempts 1",
    "--concurrency 0": "--concurrency 1",
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    def refuse(line: str) -> Run:
        given = line.split()
        if "--count" not in given:
            given = ["--count", "23", *given]
        return Command("hold", *given, results=tmp_path_factory.mktemp("usage") / "results").finish()

    with ThreadPoolExecutor(3) as pool:
        yield {line: pool.submit(refuse, line) for line in USAGE}


@pytest.mark.parametrize("line", USAGE)
def test_nonsense_on_the_command_line(line: str, refusals: dict[str, Future[Run]]) -> None:
    run = refusals[line].result()
    assert run.returncode == 2, run.stderr
    assert not any(word in run.stderr for word in ("Traceback", "internal error"))
    assert USAGE[line] in run.stderr
    assert (run.stdout, run.directory) == ("", None)


def test_more_than_any_host_allows(start: Callable[..., Command]) -> None:
    """Every obstacle at once, each with its fix; nothing was touched."""
    run = start("hold", "--count", str(10**11)).finish()
    assert (run.returncode, run.stdout, run.directory) == (3, "", None)
    for what in ("memory", "open files", "processes"):
        assert run.says(what)
    assert run.stderr.count("fix") >= 3
    assert not any(word in run.stderr for word in ("Traceback", "internal error"))


def test_a_name_that_does_not_resolve(start: Callable[..., Command]) -> None:
    run = start("hold", "--target", "name.invalid:80").finish()
    assert (run.returncode, run.directory) == (1, None)
    assert run.says("'name.invalid' does not resolve")
    assert run.says("getent hosts name.invalid")
    assert "Traceback" not in run.stderr


def test_a_ca_file_that_is_none(start: Callable[..., Command], tmp_path: Path) -> None:
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("not a certificate\n")
    run = start("hold", "--target", "127.0.0.1:9", "--tls", "--ca", str(nonsense)).finish()
    assert run.returncode == 2
    assert run.says("--ca")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(("words", "code"), [("report /nonexistent", 1), ("hold --count 0", 2)])
def test_an_error_that_nobody_can_read_any_more(words: str, code: int, tmp_path: Path) -> None:
    """A terminal whose window was closed: EIO."""
    ours, theirs = os.openpty()
    os.close(ours)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "connprobe", *words.split()],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            timeout=60,
            check=False,
        )
    finally:
        os.close(theirs)
    assert ran.returncode == code
    assert list(tmp_path.iterdir()) == []  # no report of a bug


@pytest.mark.parametrize("words", ["doctor", "hold --count 23 --for 0s --json"])
def test_standard_output_that_takes_no_more(words: str, tmp_path: Path) -> None:
    place = ("--results", str(tmp_path)) if "hold" in words else ()
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "connprobe", *words.split(), *place],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 1
    assert "standard output cannot be written: No space left on device" in ran.stderr
    assert "internal error" not in ran.stderr
    assert "Exception" not in ran.stderr


def test_standard_streams_that_are_closed(tmp_path: Path) -> None:
    """Descriptors 0 to 2 are free then, and no socket may get one of them."""
    words = f"hold --count 23 --for 0s --results {tmp_path}"
    command = f'exec "{sys.executable}" -m connprobe {words} <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], timeout=60, check=False).returncode == 0
    (record,) = tmp_path.glob("*/run.json")
    assert '"held": 23' in record.read_text()


def test_the_reader_of_stdout_went_away(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = ["hold", "--count", "23", "--for", "10ms", "--json", "--results", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-m", "connprobe", *command],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert ran.returncode == 0  # `| head` is no failure of the run
    assert len(list(tmp_path.glob("*/run.json"))) == 1
    assert "Traceback" not in ran.stderr
    assert "Exception" not in ran.stderr


def test_a_worker_that_is_stopped_is_not_taken_for_checked(start: Callable[..., Command]) -> None:
    """It cannot say that its connections live: they are lost with it, and the exit code says so."""
    with OddServer(servers.websocket) as server:
        options = ("--count", "97", "--workers", "2", "--for", "2s", "--timeout", "300ms")
        command = start("hold", "--target", server.target, *options)
        command.sampled("hold")
        os.kill(command.named("connprobe-w-1"), signal.SIGSTOP)
        run = check(command.finish(timeout_s=90), 4)
    assert (run.record.held, run.record.drops) == (49, {"worker_lost": 48})
