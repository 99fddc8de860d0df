"""`connprobe hold` against servers that behave: what is held, how it is counted, and what is left behind."""

import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import pytest
import trustme
from wsproto.events import Ping

import servers
from connprobe.model import RunRecord
from running import CHECKOUT, Command, Listening, Namespace, Run, bind_by_io_uring, check
from servers import Connection, OddServer

Holds = Callable[..., Run]
Start = Callable[..., Command]
Serves = Callable[..., Listening]
SHORT = ("--for", "300ms")


# counts


@pytest.mark.parametrize(
    ("behaviour", "options"),
    [
        (servers.websocket, ()),
        (servers.websocket, ("--workers", "3", "--concurrency", "11")),
        (servers.keep_alive, ("--protocol", "http")),
        (servers.mute, ("--protocol", "http", "--http-mode", "longpoll")),
        (servers.mute, ("--protocol", "tcp")),
    ],
    ids=["ws", "ws by 3 workers", "http", "longpoll", "tcp"],
)
def test_exactly_as_many_as_asked(
    hold: Holds, behaviour: servers.Behaviour, options: tuple[str, ...]
) -> None:
    with OddServer(behaviour) as server:
        record = hold("--target", server.target, "--count", "199", *SHORT, *options).record
        server.wait("closed", 199)
    assert (record.held, record.failures, record.drops) == (199, {}, {})
    assert server.accepted == 199
    if behaviour is servers.websocket:
        assert server.counts["pings"] == server.counts["close 1000"] == 199
        assert record.pings is not None
        assert (record.pings.sent, record.pings.answered) == (199, 199)
    else:
        assert server.counts["lost"] == 0  # every one read a clean end


def test_a_chunked_response_is_read_to_its_end(hold: Holds) -> None:
    def behave(connection: Connection) -> None:
        connection.read_head()
        for piece in (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nok",
            b"\n\r\n0\r\n",
            b"\r\n",
        ):
            connection.sock.sendall(piece)
        connection.drain()

    with OddServer(behave) as server:
        record = hold("--target", server.target, "--protocol", "http", "--count", "97", *SHORT).record
    assert (record.held, server.accepted) == (97, 97)


def test_events_keep_coming_on_a_held_stream(hold: Holds) -> None:
    def behave(connection: Connection) -> None:
        connection.read_head()
        connection.sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while not connection.server.gate.wait(0.02):
            connection.sock.sendall(b"9\r\ndata: x\n\n\r\n")
            connection.server.count("events")

    options = ("--protocol", "http", "--http-mode", "stream")
    with OddServer(behave) as server:
        record = hold("--target", server.target, "--count", "23", *SHORT, *options).record
    assert (record.held, record.drops) == (23, {})
    assert server.counts["events"] > 23


def test_pings_of_the_server_are_answered(hold: Holds) -> None:
    def behave(connection: Connection) -> None:
        servers.websocket(connection, Ping(payload=b"twenty-three"))

    with OddServer(behave) as server:
        assert hold("--target", server.target, "--count", "97", *SHORT).record.held == 97
    assert server.counts["pong twenty-three"] == 97


def test_frames_in_pieces_right_after_the_handshake(hold: Holds) -> None:
    """With the 101 come a message in two fragments, a ping between them, and half of another ping."""

    def behave(connection: Connection) -> None:
        connection.upgrade(b"\x01\x03hel" + b"\x89\x01a" + b"\x80\x02lo" + b"\x89\x06sec")
        # Only once the first is answered: of two pings read at once the client may answer the later alone.
        first = connection.sock.recv(7, socket.MSG_WAITALL)
        connection.sock.sendall(b"o")
        connection.sock.sendall(b"nd")
        second = connection.sock.recv(12, socket.MSG_WAITALL)
        connection.server.count("both pongs", int((first[:2], second[:2]) == (b"\x8a\x81", b"\x8a\x86")))
        servers.pong_each_ping(connection)

    with OddServer(behave) as server:
        record = hold("--target", server.target, "--count", "97", "--for", "1s").record
    assert (record.held, server.counts["both pongs"]) == (97, 97)


def test_pings_during_the_hold(hold: Holds) -> None:
    with OddServer(servers.websocket) as server:
        options = ("--ping", "500ms", "--for", "2s")
        record = hold("--target", server.target, "--count", "97", *options).record
    assert record.pings is not None
    assert record.pings.sent == record.pings.answered == server.counts["pings"]
    assert record.pings.sent > 2 * 97  # the last check alone would be 97
    assert record.held == 97


def test_a_server_that_falls_silent_is_found_out_by_pings(hold: Holds) -> None:
    """Those that answer late, but in time, are kept."""

    def behave(connection: Connection) -> None:
        connection.upgrade()
        if connection.index % 2:
            connection.drain()
        while (data := connection.sock.recv(4096)).startswith(b"\x89\x84"):
            connection.server.gate.wait(0.15)
            payload = bytes(b ^ data[2 + i % 4] for i, b in enumerate(data[6:10]))
            connection.sock.sendall(b"\x8a\x04" + payload)

    with OddServer(behave) as server:
        options = ("--ping", "500ms", "--for", "2500ms", "--timeout", "1s")
        run = hold("--target", server.target, "--count", "97", *options, code=4)
    assert run.record.drops == {"timeout": 48}
    assert any(sample.phase == "hold" and sample.drops == {"timeout": 48} for sample in run.samples)


def test_concurrency_is_not_exceeded(hold: Holds) -> None:
    """An answer is given only once 7 wait for one, so that an eighth would be seen."""

    def behave(connection: Connection) -> None:
        server = connection.server
        accept = connection.accept_key()
        server.count("waiting")
        server.wait_for(lambda: server.counts["waiting"] >= min(7, 97 - server.counts["answered"]))
        with server.changed:
            server.counts["waiting"] -= 1
            server.counts["answered"] += 1
            server.changed.notify_all()
        connection.sock.sendall(servers.switching(accept))
        servers.pong_each_ping(connection)

    with OddServer(behave) as server:
        options = ("--concurrency", "7", "--workers", "1")
        assert hold("--target", server.target, "--count", "97", *SHORT, *options).record.held == 97
    assert server.counts["most waiting"] == 7


def test_a_rate_opens_one_after_the_other(hold: Holds) -> None:
    with OddServer(servers.websocket) as server:
        run = hold("--target", server.target, "--count", "37", "--rate", "20", *SHORT)
    record = run.record
    assert (record.held, server.accepted, record.request.rate_per_s) == (37, 37, 20.0)
    started = [sample.started for sample in run.samples]
    assert started == sorted(started)
    assert started[0] == 0  # before there are workers
    assert any(0 < number < 37 for number in started)  # not in one burst
    assert record.ramp_s >= 36 / 20 * 0.99  # never faster than asked


# where connections come from and go to


@pytest.fixture
def subnet() -> str:
    """127.x.y of this test alone: ports that an earlier one left in TIME_WAIT are not met again."""
    return f"127.{random.randrange(16, 240)}.{random.randrange(256)}"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("{0}.7,{0}.9", (7, 9)), ("{0}.20-{0}.22", (20, 21, 22)), ("{0}.0/29", (1, 2, 3, 4, 5, 6))],
)
def test_named_sources_are_the_only_ones(
    hold: Holds, subnet: str, typed: str, expected: tuple[int, ...]
) -> None:
    """With so few ports that all of them are needed."""
    ports = f"20101-{20100 + -(-97 // len(expected))}"
    options = ("--protocol", "tcp", "--sources", typed.format(subnet), "--source-ports", ports)
    with OddServer(servers.mute) as server:
        record = hold("--target", server.target, "--count", "97", "--workers", "2", *SHORT, *options).record
    assert record.held == 97
    assert set(server.peers) == {f"{subnet}.{last}" for last in expected}


def test_source_ports_are_kept_to(hold: Holds, subnet: str) -> None:
    """41 ports of one address carry 41 connections, and not one more."""
    ports: list[int] = []

    def behave(connection: Connection) -> None:
        ports.append(connection.peer[1])
        connection.drain()

    options = ("--protocol", "tcp", "--sources", f"{subnet}.7", "--source-ports", "20011-20051")
    with OddServer(behave) as server:
        held = hold("--target", server.target, "--count", "41", *SHORT, *options).record.held
        refused = hold("--target", server.target, "--count", "43", *SHORT, *options, code=3)
    assert (held, sorted(ports)) == (41, list(range(20011, 20052)))
    assert refused.says("source ports")


def test_the_server_that_is_named_by_its_pid(hold: Holds, start: Start, serve: Serves) -> None:
    """Not the one that listens, which is found where none is named."""
    server, another = serve("--protocol", "tcp"), serve("--protocol", "tcp")
    given = ("--target", server.target, "--protocol", "tcp", "--count", "23", "--for", "1s")
    found = hold(*given).record.server
    named = hold(*given, "--pid", str(another.command.pid)).record.server
    assert found is not None
    assert named is not None
    assert found.pids == (server.command.named("connprobe-s-0"),)
    assert set(named.pids) == set(another.command.processes())  # with its children


def test_ipv6(hold: Holds) -> None:
    if not Path("/proc/net/if_inet6").exists() or "lo" not in Path("/proc/net/if_inet6").read_text():
        pytest.skip("::1 is missing: sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
    with OddServer(servers.websocket, address="::1") as server:
        record = hold("--target", server.target, "--count", "97", *SHORT).record
    assert (record.held, set(server.peers), record.target) == (97, {"::1"}, server.target)


def test_a_name(hold: Holds) -> None:
    with OddServer(servers.websocket) as server:
        record = hold("--target", f"localhost:{server.port}", "--count", "23", *SHORT).record
    assert (record.held, record.target) == (23, f"localhost:{server.port}")
    assert record.plan.target is not None
    assert record.plan.target.address in ("127.0.0.1", "::1")


def test_headers_and_path_reach_the_server(hold: Holds) -> None:
    heads: list[bytes] = []

    def behave(connection: Connection) -> None:
        heads.append(connection.read_head())
        connection.sock.sendall(servers.OK)
        connection.drain()

    options = ("--protocol", "http", "--path", "/a?b=%20", "--header", "X-One: 1", "--header", "Host: other")
    with OddServer(behave) as server:
        assert hold("--target", server.target, "--count", "7", *SHORT, *options).record.held == 7
    assert len(set(heads)) == 1
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"GET /a?b=%20 HTTP/1.1"
    assert b"X-One: 1" in lines
    assert [line for line in lines if line.lower().startswith(b"host:")] == [b"Host: other"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node: apt install nodejs")
def test_node(hold: Holds) -> None:
    script = (
        "const s = require('http').createServer({keepAliveTimeout: 60000}, (q, r) => r.end('hello'));"
        "s.listen(0, '127.0.0.1', () => console.log(s.address().port));"
    )
    node = subprocess.Popen(["node", "-e", script], stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        target = f"127.0.0.1:{int(node.stdout.readline())}"
        record = hold("--target", target, "--protocol", "http", "--count", "199", *SHORT).record
    finally:
        node.kill()
        node.communicate()
    assert (record.held, record.drops) == (199, {})
    assert record.server is not None
    assert record.server.pids == (node.pid,)


# thresholds and reconnections


@pytest.mark.parametrize(("least", "code", "outcome"), [(11, 0, "done"), (12, 4, "missed")])
def test_fail_under(hold: Holds, least: int, code: int, outcome: str) -> None:
    behave = servers.once_all_are_open(23, lambda index: index < 12, lambda connection: None)
    with OddServer(behave) as server:
        given = ("--target", server.target, "--count", "23", "--for", "1s", "--fail-under", str(least))
        record = hold(*given, code=code).record
    assert (record.held, record.drops, record.outcome) == (11, {"eof": 12}, outcome)


def test_what_is_lost_is_opened_again(hold: Holds) -> None:
    def behave(connection: Connection) -> None:
        if connection.index >= 97:
            servers.websocket(connection)
            return
        connection.upgrade()
        connection.server.wait("open", 97)

    with OddServer(behave) as server:
        options = ("--reconnect", "--for", "2s")
        record = hold("--target", server.target, "--count", "97", *options).record
    assert (record.held, record.failures, record.drops) == (97, {}, {"eof": 97})
    assert record.reconnects is not None
    again = record.reconnects
    assert (again.attempts, again.successes, again.given_up) == (97, 97, 0)
    assert server.accepted == 2 * 97


def test_a_server_that_is_gone_is_given_up(start: Start) -> None:
    with OddServer(servers.upgrade_then_mute) as server:
        options = ("--reconnect", "--reconnect-attempts", "2", "--for", "2s")
        command = start("hold", "--target", server.target, "--count", "97", *options)
        server.wait("open", 97)
        server.vanish()
        record = check(command.finish(), 4).record
    assert (record.held, record.failed, record.dropped) == (0, 0, 97)
    assert record.reconnects is not None
    again = record.reconnects
    assert (again.attempts, again.successes, again.given_up) == (2 * 97, 0, 97)


# added addresses

# Eight ports an address (the kernel prefers an even number): 47 need all six addresses of the /29.
HOME = (
    "ip address add 10.9.1.1/24 dev lo; ip address add 10.9.0.3/32 dev lo; "
    "echo 40000 40007 > /proc/sys/net/ipv4/ip_local_port_range"
)
ALIASED = ("--alias", "lo:10.9.0.0/29", "--count", "47", "--protocol", "tcp")
SIX = {f"10.9.0.{last}" for last in range(1, 7)}


def addresses(home: Namespace) -> set[str]:
    return {line.split()[3].partition("/")[0] for line in home.run("ip", "-o", "addr").splitlines()}


def test_added_addresses_are_there_for_the_run_alone(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace]
) -> None:
    home = namespace(HOME)
    before = home.run("ip", "-o", "addr")
    server = serve("--protocol", "tcp", address="10.9.1.1", prefix=home.prefix)
    given = ("hold", "--target", server.target, *ALIASED, "--for", "1s")
    command = start(*given, prefix=home.prefix)
    command.sampled("hold")
    assert addresses(home) >= SIX
    peers = {line.split()[4].rpartition(":")[0] for line in home.run("ss", "-tnH").splitlines()}
    assert peers >= SIX
    run = check(command.finish(), 0)
    assert run.record.held == 47
    assert set(run.record.plan.alias_addresses) == SIX
    assert home.run("ip", "-o", "addr") == before
    assert home.run("ls", "-A", "/run/connprobe") == ""


@pytest.mark.parametrize("phase", ["ramp", "hold"])
def test_added_addresses_go_after_ctrl_c(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace], phase: str
) -> None:
    home = namespace(HOME)
    before = home.run("ip", "-o", "addr")
    server = serve("--protocol", "tcp", address="10.9.1.1", prefix=home.prefix)
    slowly = ("--rate", "5") if phase == "ramp" else ()
    command = start("hold", "--target", server.target, *ALIASED, *slowly, prefix=home.prefix)
    command.sampled(phase)
    assert addresses(home) >= SIX
    command.interrupt()
    check(command.finish(timeout_s=5), 130)
    assert home.run("ip", "-o", "addr") == before


@pytest.mark.parametrize("error", ["nothing listens", "its workers are killed"])
def test_added_addresses_go_after_an_error(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace], error: str
) -> None:
    home = namespace(HOME)
    before = home.run("ip", "-o", "addr")
    server = serve("--protocol", "tcp", address="10.9.1.1", prefix=home.prefix)
    if error == "nothing listens":
        server.stop()
    command = start("hold", "--target", server.target, *ALIASED, "--workers", "1", prefix=home.prefix)
    if error == "its workers are killed":
        command.sampled("hold")
        assert addresses(home) >= SIX
        os.kill(command.named("connprobe-w-0"), signal.SIGKILL)
    record = check(command.finish(), 4).record
    assert (record.failed, record.dropped) == ((47, 0) if error == "nothing listens" else (0, 47))
    assert set(record.plan.alias_addresses) == SIX
    assert home.run("ip", "-o", "addr") == before
    assert home.run("ls", "-A", "/run/connprobe") == ""


def test_restore_after_a_killed_run(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace]
) -> None:
    home = namespace(HOME)
    before = home.run("ip", "-o", "addr")
    server = serve("--protocol", "tcp", address="10.9.1.1", prefix=home.prefix)
    command = start("hold", "--target", server.target, *ALIASED, prefix=home.prefix)
    command.sampled("hold")
    command.finish(kill=True)
    assert addresses(home) >= SIX
    restored = start("restore", prefix=home.prefix).finish()
    assert restored.returncode == 0
    assert {line.split()[1] for line in restored.stdout.splitlines()} == SIX - {"10.9.0.3"}
    assert home.run("ip", "-o", "addr") == before
    again = start("restore", prefix=home.prefix).finish()
    assert (again.returncode, again.stdout) == (0, "nothing to restore\n")


def test_the_next_run_restores_by_itself(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace]
) -> None:
    home = namespace(HOME)
    before = home.run("ip", "-o", "addr")
    server = serve("--protocol", "tcp", address="10.9.1.1", prefix=home.prefix)
    killed = start("hold", "--target", server.target, *ALIASED, prefix=home.prefix)
    killed.sampled("hold")
    killed.finish(kill=True)
    given = ("hold", "--target", server.target, "--protocol", "tcp", "--count", "5", *SHORT)
    run = check(start(*given, prefix=home.prefix).finish(), 0)
    assert run.stderr.count("restored: ") == 5
    assert home.run("ip", "-o", "addr") == before


# what is written and printed


def test_dry_run_touches_nothing(start: Start, namespace: Callable[[str], Namespace]) -> None:
    home = namespace(HOME)
    before = home.run("ip", "-o", "addr")
    given = ("hold", "--target", "10.9.1.1:80", *ALIASED, "--dry-run")
    run = start(*given, prefix=home.prefix).finish()
    assert (run.returncode, run.directory) == (0, None)
    assert "47" in run.stdout
    assert run.says("10.9.0.1")
    as_json = start(*given, "--json", prefix=home.prefix).finish()
    answer = json.loads(as_json.stdout)
    assert (as_json.returncode, answer["obstacles"]) == (0, [])
    assert (answer["plan"]["count"], set(answer["plan"]["alias_addresses"])) == (47, SIX)
    assert home.run("ip", "-o", "addr") == before
    assert home.run("sh", "-c", "ls -A /run/connprobe 2>/dev/null || true") == ""


def test_a_dry_run_of_too_much_names_the_obstacles(start: Start) -> None:
    run = start("hold", "--count", str(10**11), "--dry-run", "--json").finish()
    assert run.returncode == 3
    assert len(json.loads(run.stdout)["obstacles"]) >= 3


def test_the_record_and_its_summary(start: Start) -> None:
    run = check(start("hold", "--count", "499", "--workers", "2", "--for", "1s").finish(), 0)
    assert run.directory is not None
    path = run.directory / "run.json"
    schema = json.loads((CHECKOUT / "docs" / "run.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(path.read_text()))
    record = run.record
    assert record.held == 499
    assert run.stdout.startswith("Held 499 of 499 WebSocket connections")
    again = start("report", str(run.directory)).finish()
    assert (again.returncode, again.stdout) == (0, run.stdout)
    printed = start("report", str(path), "--json").finish()
    assert msgspec.json.decode(printed.stdout, type=RunRecord) == record
    samples = run.samples
    assert [sample.phase for sample in samples] == sorted(
        (sample.phase for sample in samples), key=["ramp", "hold", "check", "close"].index
    )
    assert samples[-1].held == 499
    assert len(samples) == record.observer.samples
    assert record.server is not None
    assert len(record.server.pids) == record.plan.server_processes


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def pem(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with cert.pem of localhost and 127.0.0.1, ca.pem that signed it, and other.pem."""
    place = tmp_path_factory.mktemp("pem")
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(place / "cert.pem")
    )
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(place / "other.pem"))
    return place


PROTOCOLS = {"ws": servers.websocket, "http": servers.keep_alive, "tcp": servers.mute}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_to_our_own_server(hold: Holds, serve: Serves, pem: Path, protocol: str) -> None:
    spoken = ("--protocol", protocol, "--tls")
    server = serve(*spoken, "--cert", str(pem / "cert.pem"))
    options = (*spoken, "--ca", str(pem / "ca.pem"), "--count", "97", *SHORT)
    assert hold("--target", server.target, *options).record.held == 97
    stopped = server.stop()
    assert (stopped.returncode, "accepted 97 connections" in stopped.stderr) == (0, True)


def test_what_a_tls_connection_takes_of_both_programs(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the embedded server, whose certificate is made for the run, verified, and gone with it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    took = {}
    for asked in (("--tls",), ()):
        run = check(start("hold", "--count", "499", "--for", "1s", *asked).finish(), 0)
        client, server = run.record.client, run.record.server
        assert run.record.held == 499
        assert server is not None
        assert server.pss_bytes_per_connection is not None
        assert client.workers_pss_bytes_per_connection is not None
        took[bool(asked)] = client.workers_pss_bytes_per_connection, server.pss_bytes_per_connection
        assert run.says("User space of a TLS connection (PSS)") is bool(asked)
        assert run.directory is not None
        assert "server PSS a connection" in (run.directory / "report.html").read_text()
    for with_tls, without in zip(took[True], took[False], strict=True):
        assert with_tls > without + 4096  # a session of OpenSSL, and its buffers
    assert not list(tmp_path.rglob("*.pem"))


def test_the_key_of_a_killed_run_is_nowhere_but_in_its_results(
    start: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    command = start("hold", "--no-bpf", "--tls", "--count", "23", "--for", "60s")
    command.sampled("hold")
    directory = command.directory
    command.finish(kill=True)
    assert not list(temporary.iterdir())
    assert directory is not None
    assert (directory / "tls").stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in (directory / "tls").iterdir()} == {0o600}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_to_a_server_that_sends_tickets(hold: Holds, pem: Path, protocol: str) -> None:
    """TLS 1.3 session tickets come after the handshake: readable bytes that are no answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem / "cert.pem")
    options = ("--protocol", protocol, "--tls", "--ca", str(pem / "ca.pem"), "--count", "97", *SHORT)
    with OddServer(PROTOCOLS[protocol], tls=context) as server:
        record = hold("--target", server.target, *options).record
    assert (record.held, record.drops, server.accepted) == (97, {}, 97)


@pytest.mark.parametrize("protocol", ["ws", "http"])
def test_sessions_are_taken_up_when_asked_and_never_else(hold: Holds, pem: Path, protocol: str) -> None:
    options = ("--protocol", protocol, "--tls", "--ca", str(pem / "ca.pem"), "--count", "97", *SHORT)
    for asked in ((), ("--tls-resume",)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem / "cert.pem")
        few = (*asked, "--workers", "1", "--concurrency", "10")
        with OddServer(PROTOCOLS[protocol], tls=context) as server:
            record = hold("--target", server.target, *options, *few).record
        assert (record.held, record.drops) == (97, {})
        taken_up = context.session_stats()["hits"]
        if asked:
            assert record.tls_resumed == taken_up
            assert 97 - 20 <= taken_up < 97  # those that began before the first ticket came have none
        else:
            assert (record.tls_resumed, taken_up) == (None, 0)


@pytest.mark.parametrize(
    ("options", "detail", "fix"),
    [
        (("--ca", "other.pem"), "CERTIFICATE_VERIFY_FAILED", "--insecure"),
        ((), "CERTIFICATE_VERIFY_FAILED", "--ca FILE"),
        (("--ca", "ca.pem", "--sni", "elsewhere.test"), "elsewhere.test", "--sni NAME"),
    ],
    ids=["another CA", "the system's CAs", "another name"],
)
def test_certificates_that_do_not_fit(
    start: Start, serve: Serves, pem: Path, options: tuple[str, ...], detail: str, fix: str
) -> None:
    server = serve("--tls", "--cert", str(pem / "cert.pem"))
    given = [str(pem / word) if word.endswith(".pem") else word for word in options]
    run = start("hold", "--target", server.target, "--tls", "--count", "23", *given).finish()
    record = check(run, 4).record
    assert record.failures == {"tls": 23}
    assert detail in next(iter(record.failure_details["tls"]))
    assert run.says(fix)


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        ("127.0.0.1", ("--sni", "elsewhere.test"), "elsewhere.test"),
        ("localhost", (), "localhost"),
        ("127.0.0.1", (), None),  # RFC 6066: no literal address
    ],
)
def test_the_name_that_the_server_is_told(
    hold: Holds, pem: Path, target: str, options: tuple[str, ...], expected: str | None
) -> None:
    told: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem / "cert.pem")
    context.sni_callback = lambda _sock, name, _context: told.append(name)
    with OddServer(servers.websocket, tls=context) as server:
        given = ("--target", f"{target}:{server.port}", "--tls", "--insecure", "--count", "23", *options)
        assert hold(*given, *SHORT).record.held == 23
    assert told == [expected] * 23


def test_insecure_takes_any_certificate(hold: Holds, serve: Serves, pem: Path) -> None:
    server = serve("--tls", "--cert", str(pem / "cert.pem"))
    options = ("--tls", "--insecure", "--sni", "elsewhere.test", "--count", "23", *SHORT)
    assert hold("--target", server.target, *options).record.held == 23


def test_tls_where_none_is_spoken(start: Start, serve: Serves) -> None:
    server = serve("--protocol", "http")
    run = start(
        "hold", "--target", server.target, "--protocol", "http", "--tls", "--insecure", "--count", "23"
    ).finish()
    assert check(run, 4).record.failures == {"tls": 23}
    assert run.says("leave out --tls")


def test_a_long_poll_that_is_answered_is_over(hold: Holds) -> None:
    def behave(connection: Connection) -> None:
        connection.read_head()
        status = ("503 Busy", "200 OK")[connection.index % 2]
        connection.sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode())
        connection.drain()

    with OddServer(behave) as server:
        options = ("--protocol", "http", "--http-mode", "longpoll", "--for", "500ms")
        run = hold("--target", server.target, "--count", "23", *options, code=4)
    assert run.record.drops == {"rejected": 12, "eof": 11}
    assert run.record.drop_details["eof"] == {"the long poll was answered": 11}


def test_a_stream_whose_response_ends_is_lost(hold: Holds) -> None:
    def behave(connection: Connection) -> None:
        connection.read_head()
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhi\n\r\n"
        connection.sock.sendall(head)
        if connection.index % 2:
            connection.server.gate.wait(0.3)
            connection.sock.sendall(b"0\r\n\r\n")
        connection.drain()

    with OddServer(behave) as server:
        options = ("--protocol", "http", "--http-mode", "stream", "--for", "1s")
        run = hold("--target", server.target, "--count", "23", *options, code=4)
    assert run.record.drops == {"eof": 11}
    assert run.record.held == 12


def test_every_limit_says_what_lifts_it_when_the_servers_processes_are_gone(hold: Holds) -> None:
    limits = hold("--count", "211", "--for", "1s").record.limits
    assert {(each.resource, each.scope) for each in limits} >= {
        ("source_ports", "client"),
        ("threads", "client"),
    }
    assert [each.resource for each in limits if not each.fix] == []
    assert [each.fix for each in limits if "--pid" in each.fix] == []


# io_uring


def test_many_at_once_are_opened_by_io_uring_where_it_may(hold: Holds) -> None:
    without = (sys.executable, str(CHECKOUT / "tests/forbidden.py"), "io_uring_setup")
    opened = []
    for prefix in ((), without):
        with OddServer(servers.websocket) as server:
            record = hold("--target", server.target, "--count", "199", *SHORT, prefix=prefix).record
        assert (record.held, record.failures, record.drops) == (199, {}, {})
        opened.append(record.client.opened_by_io_uring)
    assert opened[1] == 0
    assert opened[0] == 0 if not bind_by_io_uring() else opened[0] is not None and opened[0] >= 128
