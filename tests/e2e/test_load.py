"""`connprobe load` as a process, against servers that echo, stall, mangle, refuse and vanish."""

import json
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import trustme

import servers
from connprobe.model import RunRecord
from running import CHECKOUT, Command, Listening, check, eventually
from servers import Connection, OddServer, read_frame, text_frame

Start = Callable[..., Command]
Serves = Callable[..., Listening]
Loads = Callable[..., RunRecord]


@pytest.fixture
def load(start: Start) -> Loads:
    """load("--target", ..., code=4) -> the record of `connprobe load --json`, run to its end and checked."""

    def run(*arguments: str, code: int = 0) -> RunRecord:
        return check(start("load", "--json", *arguments).finish(), code).record

    return run


def websocket_echo(connection: Connection) -> None:
    connection.upgrade()
    connection.server.count("now")
    while True:
        opcode, payload = read_frame(connection)
        if opcode == 8:
            connection.server.count("close frames")
            connection.server.count("now", -1)
            connection.sock.sendall(bytes((0x88, len(payload))) + payload)
            return
        connection.server.count("messages")
        connection.sock.sendall(text_frame(payload))


# what is counted


@pytest.mark.parametrize("workers", ["1", "3"])
def test_as_many_as_asked_and_never_more_at_once(load: Loads, workers: str) -> None:
    with OddServer(websocket_echo) as server:
        record = load(
            "--target", server.target, "--count", "499", "--concurrency", "11", "--messages", "3",
            "--workers", workers,
        )  # fmt: skip
        server.wait("closed", 499)
        counts = server.counts
    assert record.load is not None
    assert (record.requested, record.load.visited, record.outcome) == (499, 499, "done")
    assert (counts["accepted"], counts["messages"], counts["close frames"]) == (499, 1497, 499)
    assert counts["most now"] <= 11
    assert (record.load.messages, record.load.answered, record.load.wrong) == (1497, 1497, 0)
    assert (record.held, record.failures, record.drops) == (0, {}, {})
    handshakes, messages = record.handshake_ms, record.message_ms
    assert handshakes is not None
    assert messages is not None
    assert (handshakes.count, messages.count) == (499, 1497)
    for took in (handshakes, messages):
        assert took.p999 is not None
        assert 0 < took.p50 <= took.p90 <= took.p99 <= took.p999 <= took.max
    assert record.connections_per_s == pytest.approx(499 / record.load.total_s, rel=0.01)


@pytest.mark.parametrize("protocol", ["ws", "http", "tcp"])
def test_the_embedded_server_echoes(load: Loads, protocol: str) -> None:
    record = load("--count", "503", "--protocol", protocol, "--messages", "2")
    assert record.load is not None
    assert (record.load.visited, record.load.answered) == (503, 1006)
    assert record.load.sent_bytes is not None
    assert record.load.sent_bytes >= 503 * 2 * 32
    assert record.server is not None
    assert record.client.cpu_s is not None
    assert record.client.workers == 1
    spent = record.load.workers_cpu_s  # one process has one CPU at most; its start is not in it
    assert spent is not None
    assert 0 < spent <= record.load.total_s * 1.02
    assert spent < record.client.cpu_s


@pytest.mark.parametrize("message", ["Zażółć gęślą jaźń", "1MiB", "@bytes"])
def test_messages_as_they_are_given(load: Loads, serve: Serves, tmp_path: Path, message: str) -> None:
    if message == "@bytes":
        message = f"@{tmp_path / 'bytes'}"
        Path(message[1:]).write_bytes(bytes(range(256)) * 5)
    server = serve("--mode", "echo")
    record = load("--target", server.target, "--count", "7", "--message", message, "--messages", "2")
    assert record.load is not None
    assert record.load_request is not None
    size = {"1MiB": 1 << 20}.get(message, 1280 if message[0] == "@" else len(message.encode()))
    assert (record.load.answered, record.load_request.message_bytes) == (14, size)
    assert record.load.received_bytes is not None
    assert 0 < record.load.received_bytes - 14 * size < 14 * 200


def test_a_message_in_a_file_whose_name_is_no_text(load: Loads, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/m\xff")
    Path(name).write_text("hello")
    record = load("--protocol", "tcp", "--count", "7", "--message", f"@{name}")
    assert record.load is not None
    assert record.load_request is not None
    assert (record.load.answered, record.load_request.message) == (7, f"@{tmp_path}/m\ufffd"[:100])


def test_a_record_as_its_schema_has_it(start: Start) -> None:
    run = check(start("load", "--json", "--count", "23").finish(), 0)
    schema = json.loads((CHECKOUT / "docs" / "run.schema.json").read_text())
    jsonschema.validate(json.loads(run.stdout), schema)
    assert json.loads(run.stdout)["command"] == "load"


def test_reports_of_a_load(start: Start) -> None:
    run = check(start("load", "--count", "23", "--threshold", "handshake.p99<20s").finish(), 0)
    assert run.stdout.startswith("23 of 23 WebSocket connections to 127.0.0.1:")
    for words in ("0 wrong echoes", "p99.9", "handshake.p99<20s  met", "echo was right"):
        assert run.says(words), run.stdout
    assert run.directory is not None
    page = (run.directory / "report.html").read_text()
    for words in ("p99.9", "handshake.p99&lt;20s", "wrong echoes", "done of 23"):
        assert words in page, words
    again = start("report", str(run.directory)).finish()
    assert again.stdout.splitlines()[0] == run.stdout.splitlines()[0]


# what goes wrong


def test_mangled_echoes_are_counted(load: Loads) -> None:
    def behave(connection: Connection) -> None:
        connection.upgrade()
        _, payload = read_frame(connection)
        if connection.index % 5 == 3:
            payload = payload.replace(b".", b"!") if b"." in payload else payload + b"!"
        connection.sock.sendall(text_frame(payload))
        opcode, payload = read_frame(connection)
        connection.server.count("close frames", int(opcode == 8))
        connection.sock.sendall(bytes((0x88, len(payload))) + payload)

    with OddServer(behave) as server:
        record = load("--target", server.target, "--count", "50", code=4)
    assert record.load is not None
    assert (record.load.wrong, record.load.visited, record.outcome) == (10, 40, "missed")
    assert server.counts["close frames"] == 50
    (missed,) = record.load.thresholds
    assert (missed.threshold, missed.value, missed.met) == ("wrong<=0", 10.0, False)


def test_a_server_that_speaks_first(load: Loads) -> None:
    """Before any message was sent: what it says is wrong on each connection."""

    def behave(connection: Connection) -> None:
        connection.upgrade(text_frame(b"hello"))
        connection.drain()

    with OddServer(behave) as server:
        given = ("--target", server.target, "--count", "23", "--messages", "0", "--timeout", "300ms")
        record = load(*given, code=4)
    assert record.load is not None
    assert (record.load.messages, record.load.wrong, record.drops) == (0, 23, {})
    assert any(it.text == "23 of 23 established connections got a wrong echo." for it in record.verdicts)


def in_many_chunks(connection: Connection) -> None:
    """Little to send, and much to read."""
    body = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    while True:
        connection.read_head()
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)


def late_by_50_ms(connection: Connection) -> None:
    connection.upgrade()
    opcode = 0
    while opcode != 8:
        opcode, payload = read_frame(connection)
        threading.Event().wait(0.05)
        connection.sock.sendall(text_frame(payload) if opcode != 8 else b"\x88\x02\x03\xe8")


@pytest.mark.parametrize(
    ("behaviour", "protocol", "count"), [(in_many_chunks, "http", "31"), (late_by_50_ms, "ws", "101")]
)
def test_whether_the_client_was_the_limit(
    start: Start, behaviour: servers.Behaviour, protocol: str, count: str
) -> None:
    """On a quiet machine of the first, and not of the second: what is said follows from what was measured."""
    with OddServer(behaviour) as server:
        given = ("--target", server.target, "--protocol", protocol, "--count", count, "--concurrency", "7")
        run = check(start("load", *given).finish(), 0)
    load = run.record.load
    assert load is not None
    assert load.workers_cpu_s is not None
    level, says = "good", "The client had time left"
    if load.workers_cpu_s > load.total_s / 2:
        level, says = "warning", "The client was the limit"
    assert [it.level for it in run.record.verdicts if it.text.startswith("The client ")] == [level]
    assert run.says(f"{level}: {says}"), run.stdout
    assert run.says("of one core's time: its workers, without their start")
    assert run.directory is not None
    assert says in (run.directory / "report.html").read_text()
    if behaviour is late_by_50_ms:
        assert level == "good"


def reset_after_the_handshake(connection: Connection) -> None:
    connection.upgrade()
    read_frame(connection)
    connection.reset()


@pytest.mark.parametrize(
    ("behaviour", "failures", "drops"),
    [
        (servers.answering(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), {"rejected": 23}, {}),
        (reset_after_the_handshake, {}, {"reset": 23}),
        (servers.mute, {"timeout": 23}, {}),
        (servers.upgrade_then_mute, {}, {"timeout": 23}),
    ],
    ids=["rejected", "reset", "no answer to the handshake", "no answer to a message"],
)
def test_failures_by_cause(
    load: Loads, behaviour: servers.Behaviour, failures: dict[str, int], drops: dict[str, int]
) -> None:
    with OddServer(behaviour) as server:
        given = ("--target", server.target, "--count", "23", "--timeout", "300ms")
        record = load(*given, code=4)
    assert (record.failures, record.drops) == (failures, drops)
    assert record.message_ms is None
    assert record.connections_per_s == 0.0  # established or not, none was done
    assert record.load is not None
    if failures:  # what their requests took was not read, and is not 0
        assert (record.load.sent_bytes, record.load.received_bytes) == (None, None)
        assert "none did" in record.unknown["load.sent_bytes"]
    else:
        assert record.load.sent_bytes


def test_nobody_listens(load: Loads) -> None:
    taken, target = servers.closed_port()
    with taken:
        record = load("--target", target, "--count", "1000003", code=4)
    assert set(record.failures) == {"refused"}
    assert 1000 <= record.failed < 1_000_003  # hopeless: the rest was not tried
    assert record.not_attempted == 1_000_003 - record.failed


def test_a_server_that_dies_in_the_middle(load: Loads) -> None:
    def behave(connection: Connection) -> None:
        if connection.index == 97:
            connection.server.vanish()
        websocket_echo(connection)

    with OddServer(behave) as server:
        record = load("--target", server.target, "--count", "499", "--timeout", "2s", code=4)
    assert record.load is not None
    assert 1 <= record.load.visited < 499  # up to 100 were under way
    assert record.failures["refused"] >= 100


def test_interrupted(start: Start) -> None:
    with OddServer(websocket_echo) as server:
        command = start("load", "--target", server.target, "--count", "1000003", "--workers", "2")
        server.wait("closed", 199)
        command.interrupt()
        record = check(command.finish(timeout_s=10), 130).record  # and no process is left
    assert record.load is not None
    assert record.outcome == "interrupted"
    assert record.load.visited + 100 >= 199
    assert record.not_attempted > 900_000


def test_wrong_echoes_whose_goodbye_is_awaited_count_once_at_ctrl_c(start: Start) -> None:
    def behave(connection: Connection) -> None:
        connection.upgrade()
        read_frame(connection)
        connection.sock.sendall(text_frame(b"another"))
        read_frame(connection)  # the close frame, which is not answered
        connection.server.count("parting")
        connection.server.gate.wait(20)

    with OddServer(behave) as server:
        command = start("load", "--json", "--target", server.target, "--count", "20", "--concurrency", "20")
        server.wait("parting", 20)
        command.interrupt()
        record = check(command.finish(), 130).record  # its counts add up
        server.gate.set()
    assert record.load is not None
    assert (record.load.wrong, record.held) == (20, 0)


def test_a_worker_that_is_killed(start: Start) -> None:
    """What it had begun is lost with it; what it had not is not attempted. The other goes on."""

    def behave(connection: Connection) -> None:
        if connection.index >= 100:
            connection.server.count("waiting")
            connection.server.gate.wait(10)
        websocket_echo(connection)

    with OddServer(behave) as server:
        command = start("load", "--json", "--target", server.target, "--count", "499", "--workers", "2")
        server.wait("waiting", 100)
        os.kill(command.named("connprobe-w-0"), signal.SIGKILL)
        server.gate.set()
        record = check(command.finish(), 4).record
    assert {*record.failures, *record.drops} == {"worker_lost"}
    assert record.failed + record.dropped == 50  # its half of the concurrency
    assert record.load is not None
    assert record.load.visited > 249
    assert any("Worker 0 was lost" in it.text for it in record.verdicts)


def test_a_client_that_was_stopped_blames_nobody(start: Start) -> None:
    """The answers lay in its sockets for longer than --timeout, more of them than one look at epoll tells."""
    command = start(
        "load", "--json", "--count", "1500", "--concurrency", "1500", "--workers", "1", "--messages", "120",
        "--timeout", "5s",
    )  # fmt: skip
    worker = command.named("connprobe-w-0")
    command.sampled("load", '"established":1500,')  # its handshakes are over
    os.kill(worker, signal.SIGSTOP)
    time.sleep(6)
    os.kill(worker, signal.SIGCONT)
    record = check(command.finish(), 0).record
    assert record.load is not None
    assert (record.load.visited, record.failures, record.drops) == (1500, {}, {})
    assert record.message_ms is not None
    assert record.message_ms.max > 5000  # they were under way when it was stopped


@pytest.mark.parametrize("name", ["connprobe-s-", "connprobe-w-"])
def test_ctrl_c_while_processes_start(start: Start, name: str) -> None:
    command = start("load", "--count", "10000000")
    assert eventually(
        lambda: any(name in comm for pid, comm in command.processes().items() if pid != command.pid)
    )
    command.interrupt()
    assert check(command.finish(timeout_s=10), 130).record.outcome == "interrupted"


# time


def one_after_another(after: int, stall_s: float) -> servers.Behaviour:
    turn = threading.Lock()

    def behave(connection: Connection) -> None:
        with turn:
            if connection.index == after:
                threading.Event().wait(stall_s)
        websocket_echo(connection)

    return behave


@pytest.mark.parametrize("scheduled", [True, False], ids=["open loop", "closed loop"])
def test_a_stall_of_half_a_second(load: Loads, scheduled: bool) -> None:
    """300 connections, 4 at once. In the open loop some 100 of them were due while the server stood still."""
    with OddServer(one_after_another(50, 0.5)) as server:
        rate = ("--rate", "200") if scheduled else ()
        record = load("--target", server.target, "--count", "300", "--concurrency", "4", *rate)
    took = record.handshake_ms
    assert took is not None
    assert took.max >= 490
    assert record.load is not None
    if scheduled:
        assert took.p99 >= 300
        assert took.p90 >= 150
        assert record.load.late is not None
        assert record.load.late.max_ms >= 300
        assert any("after their time" in it.text for it in record.verdicts)
        assert not any("went at the rate" in it.text for it in record.verdicts)
    else:
        assert took.p90 < 150
        assert record.load.late is None


def test_what_was_due_and_never_began_is_missed(load: Loads) -> None:
    with OddServer(one_after_another(20, 0.8)) as server:
        given = ("--concurrency", "2", "--rate", "200", "--duration", "500ms")
        record = load("--target", server.target, *given, code=4)
    assert (record.outcome, record.requested) == ("missed", 100)
    assert record.not_attempted >= 30
    assert (record.failed, record.dropped, record.load and record.load.thresholds) == (0, 0, ())
    assert any(it.text.startswith("The rate was not kept") for it in record.verdicts)


def test_a_server_that_refuses_all_is_not_told_as_a_rate_that_was_not_kept(
    load: Loads, free_port: Callable[[], int]
) -> None:
    record = load(
        "--target", f"127.0.0.1:{free_port()}", "--rate", "2000", "--duration", "3s", code=4
    )  # fmt: skip
    assert record.not_attempted > 1000
    assert set(record.failures) == {"refused"}
    assert any("Gave up" in it.text for it in record.verdicts), record.verdicts
    assert not any("The rate was not kept" in it.text for it in record.verdicts)


def test_a_rate_for_a_time_is_a_number(load: Loads) -> None:
    """To the byte, too: of each connection a FIN may or may not have come when its counts are read."""
    record = load("--rate", "500", "--duration", "600ms", "--workers", "2", "--protocol", "tcp")
    assert record.load is not None
    assert (record.requested, record.load.visited, record.not_attempted) == (300, 300, 0)
    assert record.load.sent_bytes == record.load.received_bytes == 300 * 32


def test_as_long_as_it_lasts(load: Loads, serve: Serves) -> None:
    server = serve("--mode", "echo")
    record = load("--target", server.target, "--duration", "400ms", "--concurrency", "5")
    assert record.load is not None
    assert record.requested == record.load.visited > 5
    assert 0.35 < record.load.total_s < 5


def test_the_count_may_be_reached_before_the_time(load: Loads) -> None:
    record = load("--count", "41", "--duration", "10m")
    assert (record.requested, record.not_attempted) == (41, 0)


@pytest.mark.parametrize(
    ("threshold", "code"),
    [
        ("handshake.p99<20s", 0),
        ("message.mean<1us", 4),
        ("connections_per_s>1", 0),
        ("total<1ms", 4),
        ("failed<1", 0),
    ],
)
def test_thresholds(load: Loads, threshold: str, code: int) -> None:
    record = load("--count", "41", "--threshold", threshold, code=code)
    assert record.load is not None
    (judged,) = record.load.thresholds
    assert (judged.threshold, judged.met) == (threshold, code == 0)
    assert judged.value is not None


def test_failures_that_are_allowed(load: Loads) -> None:
    def behave(connection: Connection) -> None:
        if connection.index == 7:
            connection.reset()
        else:
            websocket_echo(connection)

    with OddServer(behave) as server:
        given = ("--target", server.target, "--count", "100")
        record = load(*given, "--threshold", "failed<=1%")
    assert record.failed + record.dropped == 1


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(place / "cert.pem"))
    return place


@pytest.mark.parametrize("protocol", ["ws", "http", "tcp"])
def test_over_tls(load: Loads, serve: Serves, certificates: Path, protocol: str) -> None:
    spoken = ("--protocol", protocol, "--tls")
    server = serve("--mode", "echo", *spoken, "--cert", str(certificates / "cert.pem"))
    trust = ("--ca", str(certificates / "ca.pem"))
    record = load("--target", server.target, *spoken, *trust, "--count", "97", "--messages", "3")
    assert record.load is not None
    assert (record.load.visited, record.load.answered) == (97, 291)
    assert record.load.received_bytes is not None
    assert record.load.received_bytes > 97 * 500  # the certificate is among them


def test_tls_is_closed_with_its_own_goodbye(load: Loads, certificates: Path) -> None:
    """Without close_notify a server cannot tell the end from an attack, and its recv would fail."""

    def behave(connection: Connection) -> None:
        assert isinstance(connection.sock, ssl.SSLSocket)
        connection.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # unknown to typeshed
        while data := connection.sock.recv(4096):
            connection.sock.sendall(data)
        connection.server.count("clean ends")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem")
    with OddServer(behave, tls=context) as server:
        trust = ("--tls", "--ca", str(certificates / "ca.pem"))
        load("--target", server.target, "--protocol", "tcp", *trust, "--count", "41")
        server.wait("closed", 41)
    assert server.counts["clean ends"] == 41


# refused before anything is touched


def test_dry_run(start: Start) -> None:
    given = ("--count", "1000", "--duration", "5s", "--rate", "50", "--messages", "2")
    run = start("load", "--dry-run", *given).finish()
    assert run.returncode == 0
    assert run.directory is None
    assert run.says(
        "1,000 connections in all, at most 100 open at once, 2 messages of 32 bytes on each; one begins"
    )


def test_what_is_not_counted_is_not_capped(start: Start) -> None:
    given = ("--duration", "5s", "--concurrency", "12000", "--dry-run", "--json")
    plan = json.loads(start("load", *given).finish().stdout)["plan"]
    assert plan["count"] == 12_000


@pytest.mark.parametrize("concurrency", [200, 201, 401, 4000])
def test_workers_for_what_is_open_at_once(start: Start, concurrency: int) -> None:
    given = ("--count", "5000", "--concurrency", str(concurrency), "--dry-run", "--json")
    plan = json.loads(start("load", *given).finish().stdout)["plan"]
    assert plan["workers"] == min(len(os.sched_getaffinity(0)), -(-concurrency // 200))


def test_workers_that_a_low_descriptor_limit_asks_for(start: Start) -> None:
    given = ("--count", "5000", "--concurrency", "4000", "--dry-run", "--json")
    limited = ("prlimit", "--nofile=1100:1100", "setpriv", "--bounding-set=-sys_resource")
    plan = json.loads(start("load", *given, prefix=limited).finish().stdout)["plan"]
    assert plan["nofile"] == 1100
    assert plan["workers"] >= 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--threshold", "handshake.p99<50"), "--threshold 'handshake.p99<50ms'"),
        (("--threshold", "latency<50ms"), "there is no latency"),
        (("--message", "2MB"), "--message '2MB' is longer than 1,048,576 bytes"),
        (("--message", ""), "--message '' is empty"),
        (("--message", "@/nowhere"), "--message @/nowhere: No such file or directory"),
        (("--protocol", "http", "--message", "x"), "with HTTP a message is the request once more"),
        (("--concurrency", "0"), "--concurrency 0 is not between"),
        (("--duration", "1ms"), "--duration 1ms is shorter than 100ms"),
        (("--workers", "9", "--concurrency", "5"), "--workers 9 for 5 connections"),
    ],
)
def test_what_cannot_be_is_refused(start: Start, arguments: tuple[str, ...], says: str) -> None:
    run = start("load", *arguments).finish()
    assert run.returncode == 2
    assert run.says(says), run.stderr
    assert run.directory is None
