"""Real servers that behave in known, odd ways: what connprobe is held against in its tests.

Each connection is served by a plain blocking function in a thread of its own, so that a behaviour reads
like the sentence that describes it.
"""

import random
import socket
import ssl
import struct
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha1
from types import TracebackType
from typing import Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, Pong, Request
from wsproto.utilities import ProtocolError

PATIENCE_S = 30.0
RESET = struct.pack("ii", 1, 0)  # struct linger: close() sends RST
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


class Gone(Exception):
    """The client closed where more was expected of it."""


class Connection:
    """One accepted connection. `index` counts them from 0 in the order of acceptance."""

    def __init__(self, server: "OddServer", sock: socket.socket, index: int, peer: tuple[str, int]) -> None:
        self.server, self.sock, self.index, self.peer = server, sock, index, peer

    def read_head(self) -> bytes:
        """A request up to its blank line."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = self.sock.recv(4096)
            if not data:
                raise Gone
            head += data
        self.server.count("requests")
        return head

    def read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise Gone
            data += more
        return data

    def accept_key(self) -> bytes:
        """What answers the key of the upgrade request, which is read."""
        head = self.read_head()
        (key,) = (
            line.split(b":")[1].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        return b64encode(sha1(key + GUID).digest())

    def upgrade(self, more: bytes = b"") -> None:
        """The 101 response and `more`, in one send."""
        self.sock.sendall(switching(self.accept_key()) + more)
        self.server.count("open")

    def drain(self) -> None:
        """Reads until the client closes."""
        while self.sock.recv(65536):
            pass

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()


Behaviour = Callable[[Connection], None]


class OddServer:
    """Listens on a free port of `address` and runs `behaviour` for each connection, then closes it."""

    def __init__(
        self, behaviour: Behaviour, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.behaviour, self.tls = behaviour, tls
        self.counts: Counter[str] = Counter()
        self.peers: list[str] = []
        self.faults: list[BaseException] = []  # what a behaviour did not expect: asserted at the end
        self.gate = threading.Event()  # for behaviours that wait to be told
        self.changed = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self.target = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"

    @property
    def accepted(self) -> int:
        return self.counts["accepted"]

    def count(self, what: str, by: int = 1) -> None:
        with self.changed:
            self.counts[what] += by
            self.counts[f"most {what}"] = max(self.counts[f"most {what}"], self.counts[what])
            self.changed.notify_all()

    def wait(self, what: str, number: int) -> None:
        """Returns once `number` of `what` were counted."""
        self.wait_for(lambda: self.counts[what] >= number)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S), dict(self.counts)

    def vanish(self) -> None:
        """Stops listening, then closes every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.gate.set()
        with self.changed:
            open_now = list(self._sockets)
        for sock in open_now:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vanish()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        if kind is None:
            assert not any(thread.is_alive() for thread in self._threads)
            assert self.faults == []

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._listener.accept()
            except OSError:  # closed
                return
            sock.settimeout(PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peers.append(peer[0])
            connection = Connection(self, sock, self.accepted, peer[:2])
            with self.changed:
                self._sockets.add(sock)
            self.count("accepted")
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: Connection) -> None:
        raw = connection.sock
        try:
            if self.tls is not None:
                connection.sock = self.tls.wrap_socket(raw, server_side=True)
            self.behaviour(connection)
        except (OSError, Gone):
            self.count("lost")
        except Exception as fault:  # noqa: BLE001 told to the test's own thread
            self.faults.append(fault)
        finally:
            with self.changed:
                self._sockets.discard(raw)
            connection.sock.close()
            self.count("closed")


def switching(accept: bytes) -> bytes:
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def closed_port() -> tuple[socket.socket, str]:
    """A port that is taken but not listened on, as (its socket, target)."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


# well-behaved


def websocket(connection: Connection, *first: Event) -> None:
    """By wsproto, which refuses frames that are not masked. `first` goes out with the 101."""
    peer, server = WSConnection(ConnectionType.SERVER), connection.server
    while True:
        data = connection.sock.recv(65536)
        peer.receive_data(data or None)
        for event in peer.events():
            if isinstance(event, Request):
                answer = peer.send(AcceptConnection())
                connection.sock.sendall(answer + b"".join(peer.send(each) for each in first))
                server.count("open")
            elif isinstance(event, Ping):
                connection.sock.sendall(peer.send(event.response()))
                server.count("pings")
            elif isinstance(event, Pong):
                server.count(f"pong {bytes(event.payload).decode()}")
            elif isinstance(event, CloseConnection):
                server.count(f"close {int(event.code)}")
                with suppress(ProtocolError):  # the answer to a close of ours
                    connection.sock.sendall(peer.send(event.response()))
                return


def keep_alive(connection: Connection) -> None:
    connection.read_head()
    connection.sock.sendall(OK)
    connection.drain()


def mute(connection: Connection) -> None:
    """Accepts, reads, and never answers."""
    connection.drain()


def upgrade_then_mute(connection: Connection) -> None:
    """Answers the handshake and never a ping."""
    connection.upgrade()
    connection.drain()


# odd answers to the handshake


def reset_at_once(connection: Connection) -> None:
    connection.reset()


def close_at_once(connection: Connection) -> None:
    connection.read_head()


def answering(response: bytes) -> Behaviour:
    """Answers every request with `response`, and waits for the client to go."""

    def behave(connection: Connection) -> None:
        connection.read_head()
        connection.sock.sendall(response)
        connection.drain()

    return behave


def wrong_accept_key(connection: Connection) -> None:
    connection.accept_key()
    connection.sock.sendall(switching(b64encode(b"twenty wrong bytes!!")))
    connection.drain()


def garbage(connection: Connection) -> None:
    connection.read_head()
    connection.sock.sendall(b"\xff" + random.Random(connection.index).randbytes(499))
    connection.drain()


def huge_head(connection: Connection) -> None:
    connection.read_head()
    connection.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n")
    connection.drain()


def byte_by_byte(connection: Connection) -> None:
    for value in switching(connection.accept_key()):
        connection.sock.sendall(bytes((value,)))
    connection.server.count("open")
    pong_each_ping(connection)


def pong_each_ping(connection: Connection) -> None:
    """Unmasks each small ping by hand and answers it."""
    data = b""
    while received := connection.sock.recv(4096):
        data += received
        while len(data) >= 6 and len(data) >= (size := 6 + (data[1] & 0x7F)):
            frame, data = data[:size], data[size:]
            if frame[0] == 0x89:
                payload = bytes(b ^ frame[2 + i % 4] for i, b in enumerate(frame[6:]))
                connection.sock.sendall(bytes((0x8A, len(payload))) + payload)


def read_frame(connection: Connection) -> tuple[int, bytes]:
    """(opcode, payload) of the client's next frame, a short one, unmasked by hand."""
    data = b""
    while len(data) < 6 or len(data) < 6 + (data[1] & 0x7F):
        received = connection.sock.recv(6 + (data[1] & 0x7F) - len(data) if len(data) > 1 else 6 - len(data))
        if not received:
            raise Gone
        data += received
    return data[0] & 0x0F, bytes(byte ^ data[2 + i % 4] for i, byte in enumerate(data[6:]))


def text_frame(payload: bytes) -> bytes:
    """As a server sends it: not masked. payload: up to 125 bytes."""
    return bytes((0x81, len(payload))) + payload


# odd ends


def once_all_are_open(
    number: int,
    chosen: Callable[[int], bool],
    end: Callable[[Connection], None],
    begin: Callable[[Connection], None] = Connection.upgrade,
) -> Behaviour:
    """A good server that ends the `chosen` connections with `end` once `number` are open.

    begin: what makes one open, and counts it; without it a server of WebSockets.
    """

    def behave(connection: Connection) -> None:
        begin(connection)
        if chosen(connection.index):
            connection.server.wait("open", number)
            end(connection)
        elif begin is Connection.upgrade:
            pong_each_ping(connection)
        else:
            connection.drain()

    return behave


def answer_once(connection: Connection) -> None:
    connection.read_head()
    connection.sock.sendall(OK)
    connection.server.count("open")


def answer_nothing(connection: Connection) -> None:
    connection.server.count("open")


def say_goodbye(connection: Connection) -> None:
    """A close frame with 1001, going away; its answer is awaited."""
    connection.sock.sendall(b"\x88\x02\x03\xe9")
    while data := connection.sock.recv(4096):
        if data[0] == 0x88:
            connection.server.count("close answered")
            return
