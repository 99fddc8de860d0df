"""`connprobe serve` with clients that are not connprobe's, and some that mean no good."""

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage
from wsproto.events import Event as WsEvent

from connprobe.plan.capacity import STEERED_NOFILE
from connprobe.serve.steering import NEIGHBOURS_BITS
from connprobe.serve.together import Together
from running import Command, Listening, eventually
from servers import RESET

Serves = Callable[..., Listening]


class Client:
    """A plain blocking socket that reads exactly what it expects."""

    def __init__(self, server: Listening) -> None:
        self.sock = socket.create_connection(server.address, timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def ask(self, data: bytes, answer: bytes) -> None:
        self.sock.sendall(data)
        self.expect(answer)

    def expect(self, answer: bytes) -> None:
        got = b""
        while len(got) < len(answer):
            data = self.sock.recv(len(answer) - len(got))
            assert data, got
            got += data
        assert got == answer

    def expect_end(self) -> bytes:
        """What still comes until the server closes."""
        got = b""
        while data := self.sock.recv(65536):
            got += data
        return got


class WebSocketClient(Client):
    """wsproto, an independent implementation."""

    def __init__(self, server: Listening) -> None:
        super().__init__(server)
        self.peer = WSConnection(ConnectionType.CLIENT)
        self.send(Request(host="localhost", target="/"))
        self.events = self._read()
        assert isinstance(next(self.events), AcceptConnection)

    def send(self, event: WsEvent) -> None:
        self.sock.sendall(self.peer.send(event))

    def _read(self) -> Iterator[WsEvent]:
        while data := self.sock.recv(65536):
            self.peer.receive_data(data)
            yield from self.peer.events()


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"


def answer(content_type: bytes, body: bytes) -> bytes:
    length = str(len(body)).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: "
        + content_type
        + b"\r\nContent-Length: "
        + length
        + b"\r\n\r\n"
        + body
    )


def test_tcp_idle_echo_stream(serve: Serves) -> None:
    with Client(serve("--protocol", "tcp", "--mode", "echo")) as client:
        client.ask(b"one", b"one")
        client.ask(b"two" * 99991, b"two" * 99991)
    with Client(serve("--protocol", "tcp", "--mode", "stream")) as client:
        client.expect(b"welcome\n")
    idle = serve("--protocol", "tcp", "--mode", "idle")
    with Client(idle) as client:
        client.sock.sendall(b"anything")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.expect_end() == b""
    assert "accepted 1 connections, 0 were open" in idle.stop().stderr


def test_http_idle_echo_stream(serve: Serves) -> None:
    with Client(serve("--protocol", "http")) as client:
        for _ in range(3):  # keep-alive
            client.ask(GET, answer(b"text/plain", b"ok\n"))
        client.ask(GET + GET, answer(b"text/plain", b"ok\n") * 2)
    with Client(serve("--protocol", "http", "--mode", "echo")) as client:
        client.ask(POST, answer(b"application/octet-stream", b"hello"))
    with Client(serve("--protocol", "http", "--mode", "stream")) as client:
        client.sock.sendall(GET)
        got = b""
        while b"data: welcome" not in got:
            got += client.sock.recv(4096)
        assert b"text/event-stream" in got


def test_websocket_idle_echo_stream(serve: Serves) -> None:
    idle = serve("--mode", "idle")
    with WebSocketClient(idle) as client:
        client.send(TextMessage(data="ignored"))
        client.send(Ping(payload=b"23"))
        pong = next(client.events)
        assert isinstance(pong, Pong)
        assert bytes(pong.payload) == b"23"
        client.send(CloseConnection(code=1000))
        assert isinstance(next(client.events), CloseConnection)
        assert client.expect_end() == b""
    with WebSocketClient(serve("--mode", "echo")) as client:
        client.send(TextMessage(data="hel", message_finished=False))
        client.send(TextMessage(data="lo"))
        text = next(client.events)
        assert isinstance(text, TextMessage)
        assert text.data == "hello"
        client.send(BytesMessage(data=b"\x00\xff"))
        data = next(client.events)
        assert isinstance(data, BytesMessage)
        assert bytes(data.data) == b"\x00\xff"
    with WebSocketClient(serve("--mode", "stream")) as client:
        welcome = next(client.events)
        assert isinstance(welcome, TextMessage)
        assert welcome.data == "welcome"


def request() -> tuple[WSConnection, bytes]:
    peer = WSConnection(ConnectionType.CLIENT)
    return peer, peer.send(Request(host="localhost", target="/"))


def upgraded(client: Client, peer: WSConnection) -> None:
    """It is answered, and alive."""
    peer.receive_data(client.sock.recv(4096))
    assert isinstance(next(peer.events()), AcceptConnection)
    client.sock.sendall(peer.send(Ping(payload=b"23")))
    peer.receive_data(client.sock.recv(4096))
    assert isinstance(next(peer.events()), Pong)


@pytest.mark.parametrize("odd", ["none", "half", "nothing", "more", "another", "no key", "closed", "reset"])
def test_many_that_come_at_once(serve: Serves, odd: str) -> None:
    """While the server stands still: of 60 the first of each five is odd."""
    server = serve("--mode", "idle")
    pid = server.command.named("connprobe-s-0")
    with ExitStack() as stack:
        stack.enter_context(WebSocketClient(server))  # by which it knows what is asked
        os.kill(pid, signal.SIGSTOP)
        clients = []
        for index in range(60):
            client, (peer, asked) = stack.enter_context(Client(server)), request()
            is_odd = odd != "none" and index % 5 == 0
            sent = asked
            if is_odd:
                sent = {
                    "half": asked[:40],
                    "nothing": b"",
                    "more": asked + b"\x89\x80mask",  # a ping without a payload
                    "another": asked[:-2] + b"Origin: http://elsewhere\r\n\r\n",
                    "no key": asked.replace(b"==\r\n", b"=!\r\n"),
                }.get(odd, asked)
            client.sock.sendall(sent)
            clients.append((client, peer, asked, is_odd))
            if is_odd and odd in ("closed", "reset"):
                if odd == "reset":
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.sock.close()
        os.kill(pid, signal.SIGCONT)
        for client, peer, asked, is_odd in clients:
            if not is_odd or odd == "another":
                upgraded(client, peer)
            elif odd in ("half", "nothing"):
                client.sock.sendall(asked[40:] if odd == "half" else asked)
                upgraded(client, peer)
            elif odd == "more":
                got = client.sock.recv(4096)
                while not got.endswith(b"\x8a\x00"):
                    got += client.sock.recv(4096)
                assert got.startswith(b"HTTP/1.1 101 ")
            elif odd == "no key":
                assert client.expect_end().startswith(b"HTTP/1.1 400 ")
        rings = [fd for fd in Path(f"/proc/{pid}/fd").iterdir() if "io_uring" in str(fd.readlink())]
        try:
            Together(0).close()
        except OSError:
            assert rings == []
        else:
            assert rings
    stopped = server.stop()
    assert stopped.returncode == 0
    assert "accepted 61 connections" in stopped.stderr


def test_processes_and_backlog(start: Callable[..., Command], free_port: Callable[[], int]) -> None:
    """Each process has a listener of its own, with the backlog that was asked for."""
    port = free_port()
    given = ("serve", "--listen", f"127.0.0.1:{port}", "--processes", "3", "--backlog", "17")
    server = Listening(start(*given))
    found = subprocess.run(["ss", "-ltnH", f"sport = :{port}"], check=True, capture_output=True, text=True)
    assert [line.split()[2] for line in found.stdout.splitlines()] == ["17"] * 3
    names = server.command.processes().values()
    assert {f"connprobe-s-{number}" for number in range(3)} <= set(names)
    assert server.stop().returncode == 0


def test_neighbouring_ports_come_to_one_process(
    start: Callable[..., Command], free_port: Callable[[], int]
) -> None:
    """Where there are more processes than CPUs: a burst wakes one of them."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < STEERED_NOFILE:
        pytest.skip(f"processes with few descriptors share by hash: ulimit -Hn {STEERED_NOFILE}")
    processes = len(os.sched_getaffinity(0)) + 1
    given = ("--protocol", "tcp", "--processes", str(processes))
    server = Listening(start("serve", "--listen", f"127.0.0.1:{free_port()}", *given))
    names = server.command.processes().items()
    pids = [pid for pid, name in names if name.startswith("connprobe-s-") and name[-1].isdigit()]
    assert len(pids) == processes

    def descriptors() -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]

    before, block = descriptors(), 1 << NEIGHBOURS_BITS
    with ExitStack() as stack:
        for port in range(20 * block, 20 * block + 30):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.settimeout(20)
            client.bind(("127.4.3.2", port))
            client.connect(server.address)
        expected = [0] * (processes - 1) + [30]
        assert eventually(
            lambda: sorted(now - then for now, then in zip(descriptors(), before, strict=True)) == expected
        )
    assert server.stop().returncode == 0


def test_a_process_for_each_cpu(start: Callable[..., Command], free_port: Callable[[], int]) -> None:
    server = Listening(start("serve", "--listen", f"127.0.0.1:{free_port()}", "--processes", "auto"))
    names = [name for name in server.command.processes().values() if name.startswith("connprobe-s-")]
    workers = [name for name in names if name.rpartition("-")[2].isdigit()]
    assert len(workers) == len(os.sched_getaffinity(0))
    assert server.stop().returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told(serve: Serves, number: signal.Signals) -> None:
    server = serve("--protocol", "tcp")
    with Client(server), Client(server) as second:
        eventually_open(server, 2)
        stopped = server.stop(number)
        assert stopped.returncode == 0
        assert second.expect_end() == b""
    assert "accepted 2 connections, 2 were open at the end" in stopped.stderr


def eventually_open(server: Listening, number: int) -> None:
    """Accepted as the kernel sees it: a descriptor in the process."""
    pid = server.command.named("connprobe-s-0")

    def look() -> bool:
        sockets = 0
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets += str(fd.readlink()).startswith("socket:")
            except OSError:
                continue
        return sockets == number + 2  # with the listener and the control socket

    assert eventually(look)


def test_the_port_is_taken(start: Callable[..., Command]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = start("serve", "--listen", f"127.0.0.1:{port}").finish()
    assert run.returncode == 1
    assert "Address already in use" in run.stderr
    assert f"ss -ltnp 'sport = :{port}'" in run.stderr
    assert "Traceback" not in run.stderr


def test_two_servers_do_not_share_a_port(serve: Serves, start: Callable[..., Command]) -> None:
    first = serve("--protocol", "tcp")
    run = start("serve", "--listen", first.target).finish()
    assert (run.returncode, "Address already in use" in run.stderr) == (1, True)


def test_a_certificate_that_is_none(start: Callable[..., Command], tmp_path: Path) -> None:
    nonsense = tmp_path / "cert.pem"
    nonsense.write_text("not a certificate\n")
    run = start("serve", "--listen", "127.0.0.1:1", "--tls", "--cert", str(nonsense)).finish()
    assert run.returncode == 2
    assert "--cert" in run.stderr
    assert "Traceback" not in run.stderr


def test_an_address_that_is_not_ours(start: Callable[..., Command]) -> None:
    run = start("serve", "--listen", "192.0.2.77:8080").finish()
    assert (run.returncode, "Cannot assign requested address" in run.stderr) == (1, True)
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("protocol", ["http", "ws"])
def test_garbage_and_slow_clients_do_not_disturb_others(serve: Serves, protocol: str) -> None:
    server = serve("--protocol", protocol)
    with ExitStack() as stack:
        slow = stack.enter_context(Client(server))
        slow.sock.sendall(GET[:7])  # and no more
        for nonsense in (
            b"\xff" * 9999 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 99999 + b"\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
        ):
            client = stack.enter_context(Client(server))
            try:
                client.sock.sendall(nonsense)
                assert client.expect_end().startswith(b"HTTP/1.1 400 ")
            except ConnectionError:  # closed with our bytes unread
                continue
        client = stack.enter_context(Client(server))
        if protocol == "http":
            client.ask(GET, answer(b"text/plain", b"ok\n"))
            slow.ask(GET[7:], answer(b"text/plain", b"ok\n"))
        else:
            stack.enter_context(WebSocketClient(server))
            client.sock.sendall(GET)
            assert client.expect_end().startswith(b"HTTP/1.1 426 ")
    assert server.stop().returncode == 0


def test_unmasked_and_oversized_frames_are_refused(serve: Serves) -> None:
    server = serve("--mode", "echo")
    for frame, code in ((b"\x81\x02hi", 1002), (b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"mask", 1009)):
        with WebSocketClient(server) as client:
            client.sock.sendall(frame)
            closed = next(client.events)
            assert isinstance(closed, CloseConnection)
            assert int(closed.code) == code
            assert client.expect_end() == b""


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_client_that_reads_nothing_costs_bounded_memory(serve: Serves) -> None:
    """It sends until the server reads no more of it. Without that, 256 MB would be on their way back."""
    server = serve("--protocol", "tcp", "--mode", "echo")
    pid = server.command.named("connprobe-s-0")
    with Client(server) as greedy:
        before = resident(pid)
        greedy.sock.settimeout(1)
        sent, piece = 0, bytes(1 << 20)
        try:
            while sent < 256 << 20:
                sent += greedy.sock.send(piece)
        except TimeoutError:
            pass
        assert sent < 256 << 20
        assert resident(pid) < before + (8 << 20)
        with Client(server) as other:  # and nobody else waits
            other.ask(b"still there?", b"still there?")


def test_pipelined_requests_of_a_client_that_reads_nothing(serve: Serves) -> None:
    server = serve("--protocol", "http")
    pid = server.command.named("connprobe-s-0")
    with Client(server) as greedy:
        before = resident(pid)
        greedy.sock.settimeout(1)
        sent, piece = 0, GET * 4096
        try:
            while sent < 256 << 20:
                greedy.sock.sendall(piece)
                sent += len(piece)
        except TimeoutError:
            pass
        assert sent < 256 << 20
        assert resident(pid) < before + (8 << 20)


def test_out_of_descriptors(serve: Serves) -> None:
    """It keeps what it has, and accepts again as soon as some close."""
    server = serve("--protocol", "tcp", "--mode", "echo")
    pid = server.command.named("connprobe-s-0")
    eventually_open(server, 0)
    taken = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken + 23, hard))
    with ExitStack() as stack:
        served = [stack.enter_context(Client(server)) for _ in range(23)]
        for client in served:
            client.ask(b"in", b"in")
        waiting = [stack.enter_context(Client(server)) for _ in range(7)]
        for client in waiting:
            client.sock.sendall(b"out")
        for client in served:
            client.ask(b"again", b"again")
        for client in served[:7]:
            client.sock.close()
        for client in waiting:
            client.expect(b"out")
    stopped = server.stop()
    assert (stopped.returncode, "accepted 30 connections" in stopped.stderr) == (0, True)


def test_a_process_that_dies_ends_the_server(serve: Serves) -> None:
    server = serve("--protocol", "tcp")
    os.kill(server.command.named("connprobe-s-0"), signal.SIGKILL)
    run = server.command.finish()
    assert run.returncode == 1
    assert "killed by SIGKILL" in run.stderr


def test_an_address_that_is_not_this_hosts(start: Callable[..., Command]) -> None:
    run = start("serve", "--listen", "192.0.2.77:8080").finish()
    assert run.returncode == 1
    assert run.says("cannot listen on 192.0.2.77:8080: Cannot assign requested address")
    assert run.says("ip address shows those of this host")
