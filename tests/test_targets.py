"""Each reference server is started as `ready` says, held, spoken to, and told to end."""

import os
import random
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import CloseConnection, Ping, Pong, TextMessage
from wsproto.events import Request as Upgrade

from connprobe import targets
from connprobe.errors import RunFailed, UsageError
from connprobe.observe.declared import haproxy, nginx
from connprobe.observe.sockdiag import listen_sockets
from connprobe.wire.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, close_payload, frame
from running import eventually

COUNT = 23
PATIENCE_S = 30.0
MASK = b"mask"
ECHOES = {"ws": ("node-ws", "embedded"), "tcp": ("python-asyncio", "python-threads")}


class Served:
    """A reference server that listens."""

    def __init__(self, name: str, directory: Path, options: dict[str, str]) -> None:
        self.address = options.get("address", "127.0.0.1")
        self.family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        with socket.create_server((self.address, 0), family=self.family) as taken:
            self.port = int(taken.getsockname()[1])
        try:
            self.ready = targets.ready(name, self.port, directory, options)
        except RunFailed as missing:
            pytest.skip(f"{missing}: {missing.fix}")
        self.output = directory.with_suffix(".output")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.ready.command,
                env={**os.environ, **self.ready.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.process.returncode}: {self.output.read_text()}")
        with socket.socket(self.family) as asked:
            return asked.connect_ex((self.address, self.port)) == 0

    def connect(self) -> socket.socket:
        return socket.create_connection((self.address, self.port), PATIENCE_S)

    def family_tree(self) -> list[int]:
        found, left = [], [self.pid]
        while left:
            found.append(left.pop())
            with suppress(OSError):
                for task in Path(f"/proc/{found[-1]}/task").iterdir():
                    left += map(int, (task / "children").read_text().split())
        return found

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """serve(name, **options) -> Served, in a directory of its own, which has a space in its name."""
    started: list[Served] = []

    def start(name: str, **options: str) -> Served:
        directory = tmp_path / f"run {len(started)}"
        directory.mkdir(0o700)
        started.append(Served(name, directory, options))
        assert eventually(started[-1].listens)
        return started[-1]

    yield start
    for each in started:
        each.process.terminate()
        try:
            each.process.wait(PATIENCE_S)
        finally:
            each.process.kill()


@pytest.fixture
def crowd() -> Iterator[Callable[[Served, int], list[socket.socket]]]:
    with ExitStack() as stack:
        yield lambda served, count: [stack.enter_context(served.connect()) for _ in range(count)]


Crowd = Callable[[Served, int], list[socket.socket]]


def get(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def until(one: socket.socket, end: bytes) -> bytes:
    """What comes, up to `end`."""
    received = b""
    while not received.endswith(end):
        data = one.recv(65536)
        assert data, received
        received += data
    return received


def silent(connections: list[socket.socket]) -> bool:
    """Nothing came on any, and none was closed."""
    asked = select.poll()
    for each in connections:
        asked.register(each, select.POLLIN | select.POLLRDHUP)
    return asked.poll(0) == []


def message(served: Served) -> int:
    """How many connections the server says to have sent a message to."""
    assert served.ready.message_path is not None
    with served.connect() as asked:
        asked.sendall(get(served.ready.message_path))
        head, _, body = until(asked, b"\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return int(body)


@pytest.mark.parametrize("name", ["node-array", "node-object"])
def test_a_store_keeps_requests_and_sends_a_message_to_all(serve: Serve, crowd: Crowd, name: str) -> None:
    served = serve(name, heap_mb="64")
    assert (served.ready.protocol, served.ready.http_mode) == ("http", "longpoll")
    connections = crowd(served, COUNT)
    for each in connections:
        each.sendall(get())
    assert silent(connections)
    assert eventually(lambda: message(served) == COUNT)
    for each in connections:
        assert until(each, b"a\r\nconnprobe\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    # Out of the middle, the front and the end, and of the rest each has exactly one message more.
    gone = {0, 1, 5, 7, 11, 20, COUNT - 1}
    for index in gone:
        connections[index].close()
    rest = [each for index, each in enumerate(connections) if index not in gone]
    counts: list[int] = []

    def all_are_gone() -> bool:
        counts.append(message(served))
        return counts[-1] == len(rest)

    assert eventually(all_are_gone)
    for each in rest:
        assert until(each, b"a\r\nconnprobe\n\r\n" * len(counts)) == b"a\r\nconnprobe\n\r\n" * len(counts)
    assert silent(rest)


@pytest.mark.parametrize("name", ["node-array", "node-object"])
def test_a_store_survives_clients_that_reset_while_it_writes(serve: Serve, crowd: Crowd, name: str) -> None:
    served = serve(name)
    connections = crowd(served, 211)
    for each in connections:
        each.sendall(get() * 3)  # pipelined: each of them is kept, and goes
    assert eventually(lambda: message(served) == 3 * len(connections))
    (asked,) = crowd(served, 1)
    for index, each in enumerate(connections):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", index % 3 > 0, 0))
        if index % 37 == 0:
            asked.sendall(get("/message"))
        each.close()
    assert eventually(lambda: message(served) == 0)
    assert served.listens()


class Client:
    """wsproto's side of a WebSocket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.peer = sock, WSConnection(ConnectionType.CLIENT)
        sock.sendall(self.peer.send(Upgrade(host="x", target="/")))
        self.next()

    def next(self) -> object:
        """The next event, which is to be the only one."""
        while True:
            data = self.sock.recv(65536)
            self.peer.receive_data(data or None)
            events = list(self.peer.events())
            if events and getattr(events[-1], "message_finished", True):
                (event,) = events
                return event

    def ask(self, event: Ping | TextMessage | CloseConnection) -> object:
        self.sock.sendall(self.peer.send(event))
        return self.next()


@pytest.mark.parametrize(
    ("name", "options"),
    [("node-ws", {}), ("node-ws", {"workers": "3"}), ("embedded", {}), ("embedded", {"processes": "2"})],
)
def test_a_websocket_server_echoes(serve: Serve, crowd: Crowd, name: str, options: dict[str, str]) -> None:
    served = serve(name, **options)
    assert served.ready.protocol == "ws"
    clients = [Client(each) for each in crowd(served, COUNT)]
    assert silent([each.sock for each in clients])
    for number, client in enumerate(clients):
        answer = client.ask(TextMessage(f"message {number}, café"))
        assert isinstance(answer, TextMessage)
        assert answer.data == f"message {number}, café"
        pong = client.ask(Ping(b"are you there"))
        assert isinstance(pong, Pong)
        assert pong.payload == b"are you there"
    closed = clients[0].ask(CloseConnection(1000))
    assert isinstance(closed, CloseConnection)
    assert closed.code == 1000
    assert silent([each.sock for each in clients[1:]])


@pytest.fixture
def node_ws(serve: Serve, crowd: Crowd) -> socket.socket:
    """A connection to node-ws whose upgrade is answered."""
    (one,) = crowd(serve("node-ws"), 1)
    upgrade(one)
    return one


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def upgrade(one: socket.socket, more: bytes = b"") -> None:
    one.sendall(UPGRADE + more)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += one.recv(1)
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head  # RFC 6455, section 1.3


def receives(one: socket.socket, expected: bytes) -> bool:
    received = b""
    while len(received) < len(expected):
        data = one.recv(65536)
        if not data:
            break
        received += data
    return received == expected


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1 << 20])
def test_node_ws_echoes_payloads_of_every_length_form(node_ws: socket.socket, size: int) -> None:
    payload = os.urandom(size)
    node_ws.sendall(frame(BINARY, payload, MASK))
    assert receives(node_ws, frame(BINARY, payload))


def test_node_ws_joins_fragments_around_a_ping_and_pieces(node_ws: socket.socket) -> None:
    sent = (
        frame(TEXT, "caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()[:4], MASK, fin=False)
        + frame(PING, b"now", MASK)
        + frame(CONTINUATION, b"\xa9 ", MASK, fin=False)
        + frame(CONTINUATION, b"noir", MASK)
        + frame(TEXT, b"again", MASK)
    )
    for value in sent:
        node_ws.sendall(bytes((value,)))
    assert receives(node_ws, b"\x8a\x03now" + frame(TEXT, "café noir".encode()) + frame(TEXT, b"again"))


def test_node_ws_echoes_whatever_way_messages_are_cut(node_ws: socket.socket) -> None:
    chance = random.Random(23)
    for _ in range(COUNT):
        payload = chance.randbytes(chance.choice((0, 7, 127, 4099, 70_001)))
        cuts = sorted(chance.randrange(len(payload) + 1) for _ in range(chance.randrange(5)))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        sent = b"".join(
            frame(CONTINUATION if index else BINARY, piece, chance.randbytes(4), fin=index == len(cuts))
            for index, piece in enumerate(pieces)
        )
        while sent:
            size = chance.randrange(1, 9001)
            node_ws.sendall(sent[:size])
            sent = sent[size:]
        assert receives(node_ws, frame(BINARY, payload))


def test_node_ws_takes_frames_that_come_with_the_upgrade(serve: Serve, crowd: Crowd) -> None:
    (one,) = crowd(serve("node-ws"), 1)
    upgrade(one, frame(TEXT, b"early", MASK))
    assert receives(one, frame(TEXT, b"early"))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"unmasked"), 1002),
        (b"\xc1\x80mask", 1002),  # RSV1
        (b"\x83\x80mask", 1002),  # a reserved opcode
        (b"\x8b\x80mask", 1002),
        (b"\x09\x80mask", 1002),  # a ping in fragments
        (b"\x89\xfe\x00\x7emask", 1002),  # one of 126 bytes
        (b"\x82\xfe\x00\x05mask", 1002),  # 5 bytes in the form for 126 and more
        (b"\x82\xff\x00\x00\x00\x00\x00\x00\x00\x05mask", 1002),
        (b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask", 1002),
        (b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x01mask", 1009),  # 1 MiB and a byte, only announced
        (frame(CONTINUATION, b"of nothing", MASK), 1002),
        (frame(TEXT, b"a", MASK, fin=False) + frame(TEXT, b"b", MASK), 1002),
        (frame(BINARY, b"", MASK, fin=False) + frame(CONTINUATION, b"", MASK, fin=False) * 1024, 1009),
        (frame(BINARY, bytes(1 << 20), MASK, fin=False) + frame(CONTINUATION, b"1", MASK), 1009),
        (frame(TEXT, b"\xff", MASK), 1007),
        (frame(CLOSE, b"\x03", MASK), 1002),
        (frame(CLOSE, (1005).to_bytes(2, "big"), MASK), 1002),
        (frame(CLOSE, close_payload(1000) + b"\xff", MASK), 1007),
        (frame(CLOSE, b"", MASK), 1000),
        (frame(CLOSE, close_payload(4001, "enough"), MASK), 4001),
    ],
)
def test_node_ws_closes_with_the_code_of_the_rfc(node_ws: socket.socket, sent: bytes, code: int) -> None:
    node_ws.sendall(sent + frame(TEXT, b"too late", MASK))
    assert receives(node_ws, frame(CLOSE, close_payload(code)))
    node_ws.shutdown(socket.SHUT_WR)
    assert node_ws.recv(1) == b""


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"GET", b"PUT"),
        (b"Version: 13", b"Version: 8"),
        (b"jZQ==", b"jZQ="),
        (b"WebSocket\r", b"h2c\r"),
    ],
)
def test_node_ws_refuses_what_is_no_upgrade_to_websocket(
    serve: Serve, crowd: Crowd, was: bytes, becomes: bytes
) -> None:
    (one,) = crowd(serve("node-ws"), 1)
    one.sendall(UPGRADE.replace(was, becomes, 1))
    assert until(one, b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert one.recv(1) == b""


def test_node_ws_reads_no_more_from_a_client_that_does_not_read(node_ws: socket.socket) -> None:
    node_ws.settimeout(1)
    message, sent = frame(BINARY, bytes(1 << 20), MASK), 0
    with suppress(TimeoutError):
        while sent < 256:
            node_ws.sendall(message)
            sent += 1
    assert sent < 64  # megabytes: what fits in the kernel's buffers, and one or two of its own


def test_nginx_answers_and_keeps_the_connection(serve: Serve, crowd: Crowd) -> None:
    served = serve("nginx", worker_connections="101")
    assert (served.ready.protocol, served.ready.http_mode) == ("http", "keepalive")
    connections = crowd(served, COUNT)
    for _ in range(2):
        for each in connections:
            each.sendall(get())
            assert until(each, b"ok\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert silent(connections)


def test_nginx_pending_holds_requests_to_the_last_entry_of_its_table(serve: Serve, crowd: Crowd) -> None:
    served = serve("nginx", worker_connections="101", mode="pending")
    assert served.ready.http_mode == "longpoll"
    assert eventually(lambda: len(served.family_tree()) == 2)
    (ceiling,) = nginx.ceilings(served.family_tree(), [served.port], False)
    assert ceiling.capacity == 99
    connections = crowd(served, 99)
    for each in connections:
        each.sendall(get())
    (one_more,) = crowd(served, 1)
    with suppress(ConnectionError):
        one_more.sendall(get())
        assert one_more.recv(1) == b""
    assert silent(connections)


def test_haproxy_answers_up_to_its_maxconn(serve: Serve, crowd: Crowd) -> None:
    served = serve("haproxy", maxconn=str(COUNT), threads="2")
    assert (served.ready.protocol, served.ready.http_mode) == ("http", "keepalive")
    (ceiling,) = haproxy.ceilings([served.pid], [served.port], False)
    assert ceiling.capacity == COUNT
    connections = crowd(served, COUNT)
    for each in connections * 2:
        each.sendall(get())
        assert until(each, b"ok\n").startswith(b"HTTP/1.1 200 OK\r\n")
    (one_more,) = crowd(served, 1)
    one_more.sendall(get())
    assert eventually(lambda: [each.depth for each in listen_sockets(served.port)] == [1])
    assert silent([*connections, one_more])
    connections.pop().close()
    assert until(one_more, b"ok\n")


def echoes(one: socket.socket, text: bytes) -> bool:
    one.sendall(text)
    return receives(one, text)


@pytest.mark.parametrize("name", ECHOES["tcp"])
def test_a_python_server_echoes(serve: Serve, crowd: Crowd, name: str) -> None:
    served = serve(name)
    assert served.ready.protocol == "tcp"
    connections = crowd(served, COUNT)
    assert all(echoes(each, b"message %d" % number) for number, each in enumerate(connections))
    assert echoes(connections[0], os.urandom(100_000))


@pytest.mark.parametrize("name", ECHOES["tcp"])
def test_out_of_descriptors_a_python_server_waits_and_goes_on(serve: Serve, crowd: Crowd, name: str) -> None:
    served = serve(name)
    (first,) = crowd(served, 1)
    assert echoes(first, b"all that it opens later is open")
    limit = 41
    resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (limit, limit))
    connections = crowd(served, 2 * limit)
    fds = Path(f"/proc/{served.pid}/fd")
    assert eventually(lambda: len(list(fds.iterdir())) == limit)
    (listener,) = listen_sockets(served.port)
    assert (listener.backlog or 0) > 4 * limit
    assert eventually(lambda: (listen_sockets(served.port)[0].depth or 0) > limit)
    assert echoes(first, b"this one is not disturbed")
    for each in connections[:limit]:
        each.close()
    assert all(echoes(each, b"now there is room") for each in connections[limit : 2 * limit - 8])


def test_each_connection_has_a_thread_of_that_stack(serve: Serve, crowd: Crowd) -> None:
    served = serve("python-threads", stack_kb="148")
    assert all(echoes(each, b"hello") for each in crowd(served, COUNT))
    status = Path(f"/proc/{served.pid}/status").read_text()
    assert f"\nThreads:\t{COUNT + 1}\n" in status
    ranges = (
        line.split()[0].split("-") for line in Path(f"/proc/{served.pid}/maps").read_text().splitlines()
    )
    sizes = [int(end, 16) - int(start, 16) for start, end in ranges]
    assert sizes.count(148 * 1024) >= COUNT


def test_without_room_for_a_thread_a_connection_is_closed(serve: Serve, crowd: Crowd) -> None:
    stack_kb = 1 << 16
    served = serve("python-threads", stack_kb=str(stack_kb))
    (first,) = crowd(served, 1)
    assert echoes(first, b"hello")
    status = Path(f"/proc/{served.pid}/status").read_text()
    (now_kb,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:"))
    most = (now_kb + 5 * stack_kb) * 1024
    resource.prlimit(served.pid, resource.RLIMIT_AS, (most, most))
    connections = crowd(served, 11)
    lost = 0
    for each in connections:
        try:
            lost += not echoes(each, b"is there a thread?")
        except ConnectionError:
            lost += 1
    assert 6 <= lost <= 8
    assert echoes(first, b"this one is not disturbed")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", targets.NAMES)
def test_it_ends_at_once_with_all_it_started_and_has_said_nothing(
    serve: Serve, crowd: Crowd, name: str, address: str
) -> None:
    if address == "::1" and not ipv6():
        pytest.skip("no ::1 here: sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
    served = serve(name, address=address)
    connections = crowd(served, COUNT)
    assert [str(each.address) for each in listen_sockets(served.port)] == [address]
    family = served.family_tree()
    assert served.end() in (0, -signal.SIGTERM)
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))
    assert not silent(connections)
    if name != "embedded":
        assert served.output.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_node_ws_end_with_their_parent(serve: Serve, number: signal.Signals) -> None:
    served = serve("node-ws", workers="3")
    assert eventually(lambda: len(served.family_tree()) == 4)
    family = served.family_tree()
    served.process.send_signal(number)
    served.process.wait(PATIENCE_S)
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


def test_node_ws_ends_when_a_worker_does(serve: Serve) -> None:
    served = serve("node-ws", workers="2")
    assert eventually(lambda: len(served.family_tree()) == 3)
    family = served.family_tree()
    os.kill(family[-1], signal.SIGKILL)
    assert served.process.wait(PATIENCE_S) == 1
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_configuration_is_all_that_is_written_before_the_start(tmp_path: Path, name: str) -> None:
    try:
        targets.ready(name, 8080, tmp_path)
    except RunFailed as missing:
        pytest.skip(f"{missing}: {missing.fix}")
    (file,) = tmp_path.iterdir()
    assert file.name in ("nginx.conf", "haproxy.cfg")
    assert "$" not in file.read_text()


def test_the_heap_of_node_is_limited_by_its_own_option(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("needs node: apt-get install nodejs")
    for name in ("node-array", "node-object", "node-ws"):
        assert "--max-old-space-size=80" in targets.ready(name, 8080, tmp_path, {"heap_mb": "80"}).command
        assert len(targets.ready(name, 8080, tmp_path).command) == 5  # node, the script, and three for it


def test_an_unknown_name_is_answered_with_all_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reference server 'apache'") as refused:
        targets.ready("apache", 8080, tmp_path)
    assert refused.value.fix == f"one of {', '.join(targets.NAMES)}"


def test_an_unknown_option_is_answered_with_those_of_the_server(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the server haproxy has no option 'heap_mb'") as refused:
        targets.ready("haproxy", 8080, tmp_path, {"heap_mb": "80"})
    assert refused.value.fix == "it has address, maxconn, threads"


@pytest.mark.parametrize(
    ("name", "option", "value", "fix"),
    [
        ("nginx", "worker_connections", "many", "16 to 16777216"),
        ("nginx", "worker_connections", "5; include /etc/passwd", "16 to 16777216"),
        ("nginx", "mode", "slow", "keepalive"),
        ("nginx", "workers", "0", "1 to 512"),
        ("node-ws", "heap_mb", "15", "16 to 1048576"),
        ("haproxy", "maxconn", "-1", "1 to 16777216"),
        ("haproxy", "threads", "\N{DEVANAGARI DIGIT TWO}", "1 to 64"),
        ("python-threads", "stack_kb", "31", "32 to 1048576"),
        ("python-asyncio", "address", "localhost", "127.0.0.1"),
        ("nginx", "address", "::1%;", "127.0.0.1"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(
    tmp_path: Path, name: str, option: str, value: str, fix: str
) -> None:
    with pytest.raises(UsageError, match=f"{option} of the server {name} is ") as refused:
        targets.ready(name, 8080, tmp_path, {option: value})
    assert refused.value.fix == fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package"), [("node-array", "nodejs"), ("nginx", "nginx-light"), ("haproxy", "haproxy")]
)
def test_a_program_that_is_missing_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(targets, "_SBIN", str(tmp_path))
    with pytest.raises(RunFailed, match=f"the server {name} needs .*, which is not installed") as refused:
        targets.ready(name, 8080, tmp_path)
    assert refused.value.fix == f"apt-get install {package}"


def test_programs_in_sbin_are_found_whatever_the_path_of_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/usr/sbin/haproxy").exists():
        pytest.skip("needs haproxy: apt-get install haproxy")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert targets.ready("haproxy", 8080, tmp_path).command[0] == "/usr/sbin/haproxy"
