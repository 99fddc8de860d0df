"""The connections that are established: one byte of state each, indexed by file descriptor.

Nothing else is kept for an idle connection. A frame that arrived in part has a reader until it is
whole; a TLS connection has its session. All else is in the kernel.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from connprobe import causes
from connprobe.engine.failure import cause_of
from connprobe.errors import ProtocolViolation
from connprobe.wire.http import ResponseReader
from connprobe.wire.websocket import BINARY, CLOSE, PING, PONG, TEXT, FrameReader, close_payload, frame

if TYPE_CHECKING:
    from connprobe.engine.messages import Exchange

FREE, IN_FLIGHT, HELD = 0, 1, 2
FIRST_ROUND, ROUNDS = 3, 250  # states above HELD: awaits the pong of that round of pings
READ_BYTES = 16384  # at most, of one connection in one turn
_LINGER_RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {1, 0}
_HELD = b"\x02"


class Lost(Exception):
    """A held connection is no more: (cause, detail)."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause, detail)
        self.cause, self.detail = cause, detail


class HeldSet:
    """State of up to `size` descriptors of one worker."""

    def __init__(
        self, size: int, family: int, *, websocket: bool, longpoll: bool, tls: bool, brief: bool = False
    ) -> None:
        """brief: few are open, and not for long: their sockets are kept, not made anew."""
        self.state = bytearray(size)
        self.count = 0
        self.awaiting = 0  # pongs
        self.pings = 0
        self.pongs = 0
        self.bytes_read = 0
        self.messages: Exchange | None = None  # what goes on
        self._family = family
        self._websocket, self._longpoll, self._tls = websocket, longpoll, tls
        self._readers: dict[int, FrameReader] = {}
        self._responses: dict[int, ResponseReader] = {}  # of streams, and of long polls being answered
        self._sessions: dict[int, Any] = {}  # fd -> ssl.SSLSocket
        self.sockets: dict[int, socket.SocketType] = {}  # of those that are kept
        self._brief = brief
        self._payload = os.urandom(4)  # of all our pings: a pong that carries it answers one of them
        self._pong = b"\x8a\x04" + self._payload

    def add(self, sock: socket.SocketType, leftover: bytes, response: ResponseReader | None = None) -> None:
        """Takes over an established socket. Raises Lost when what followed the handshake ends it.

        response: the reader of a response that is still open.
        """
        fd = sock.fileno()
        self.take(fd, sock)
        if response is not None:
            self._responses[fd] = response
        if leftover and self._websocket:
            self._frames(fd, leftover)

    def take(self, fd: int, sock: socket.SocketType | None) -> None:
        """Holds a socket behind whose handshake nothing came. None: no object of it was made."""
        if self._tls:
            self._sessions[fd] = sock
        elif sock is not None and self._brief:
            self.sockets[fd] = sock
        elif sock is not None:
            sock.detach()
        self.state[fd] = HELD
        self.count += 1

    def take_all(self, fds: Sequence[int]) -> None:
        """The same of many, without TLS and without objects."""
        state = self.state
        for fd in fds:
            state[fd] = HELD
        self.count += len(fds)

    def readable(self, fd: int) -> None:
        """Reads what arrived on a held connection. Raises Lost."""
        session = self._sessions.get(fd)
        if self.messages is not None:
            self.messages.flush(fd)
        try:
            data = os.read(fd, READ_BYTES) if session is None else session.recv(READ_BYTES)
            while True:
                if not data:
                    raise Lost(causes.EOF, "closed by the server")
                self.bytes_read += len(data)
                if data == self._pong and fd not in self._readers:
                    self._ponged(fd)
                elif self._websocket:
                    messages = self.messages
                    if messages is None or fd in self._readers or not messages.known(fd, data):
                        self._frames(fd, data)
                elif self.messages is not None and self.messages.came(fd, data):
                    pass
                elif self._longpoll or fd in self._responses:
                    self._response(fd, data)
                if session is None or not session.pending():
                    return
                data = session.recv(session.pending())
        except OSError as error:
            if wants_more(error):
                return
            raise _lost(error) from error

    def _response(self, fd: int, data: bytes) -> None:
        """An open response goes on, or a long poll is answered."""
        reader = self._responses.setdefault(fd, ResponseReader())
        try:
            reader.feed(data)
        except ProtocolViolation as violation:
            raise Lost(causes.PROTOCOL, str(violation)) from violation
        if reader.head is not None and reader.head.status // 100 != 2:
            raise Lost(causes.REJECTED, f"{reader.head.status} {reader.head.reason}".strip())
        if reader.complete:
            raise Lost(causes.EOF, "the long poll was answered" if self._longpoll else "the response ended")

    def _ponged(self, fd: int) -> None:
        if self.state[fd] > HELD:
            self.state[fd] = HELD
            self.awaiting -= 1
            self.pongs += 1

    def _frames(self, fd: int, data: bytes) -> None:
        messages = self.messages
        reader = self._readers.pop(fd, None) or FrameReader(
            from_client=False, keep=None if messages is None else messages.keep
        )
        try:
            events = reader.feed(data)
        except ProtocolViolation as violation:
            self._write(fd, frame(CLOSE, close_payload(getattr(violation, "code", 1002)), os.urandom(4)))
            raise Lost(causes.PROTOCOL, str(violation)) from violation
        pinged: bytes | None = None
        for event in events:
            if event.opcode == PING:
                pinged = event.payload
            elif event.opcode == PONG:
                if event.payload == self._payload:
                    self._ponged(fd)
            elif event.opcode in (TEXT, BINARY):
                if messages is not None:
                    messages.came(fd, event.payload)
            elif event.opcode == CLOSE:
                if messages is not None:
                    messages.close_came(fd)
                self._write(fd, frame(CLOSE, event.payload[:2], os.urandom(4)))
                raise Lost(causes.EOF, f"close frame {event.code or 'without a code'}")
        if pinged is not None:  # RFC 6455, 5.5.3: of several, the latest may be answered alone
            self._write(fd, frame(PONG, pinged, os.urandom(4)))
        if not reader.at_boundary:
            self._readers[fd] = reader

    def _write(self, fd: int, data: bytes) -> bool:
        """False: the peer reads too slowly for ten bytes to fit, or we are in the midst of a message."""
        if self.messages is not None and self.messages.unsent(fd):
            return False
        return self.send(fd, data) > 0

    def send(self, fd: int, data: bytes) -> int:
        """How many bytes the kernel, or TLS, took. Raises Lost."""
        session = self._sessions.get(fd)
        try:
            return os.write(fd, data) if session is None else session.send(data)
        except OSError as error:
            if wants_more(error):
                return 0
            raise _lost(error) from error

    def ping(self, fd: int, number: int) -> None:
        """Sends a ping of this round and waits for its pong. Raises Lost."""
        self.awaiting += self.state[fd] == HELD
        self.state[fd] = FIRST_ROUND + number % ROUNDS
        if self._write(fd, frame(PING, self._payload, os.urandom(4))):
            self.pings += 1

    def next_held(self, start: int) -> int:
        """The first held descriptor from `start` on that waits for no pong, or -1."""
        return self.state.find(_HELD, start)

    def unanswered(self, number: int | None = None) -> list[int]:
        """The descriptors that await a pong of this round, or of any."""
        if number is None:
            return [fd for fd, state in enumerate(self.state) if state > HELD]
        wanted, found = FIRST_ROUND + number % ROUNDS, []
        fd = self.state.find(wanted)
        while fd >= 0:
            found.append(fd)
            fd = self.state.find(wanted, fd + 1)
        return found

    def close(self, fd: int, *, last: bool = False) -> None:
        """Ends one connection so that the server reads a clean end and most leave no TIME_WAIT.

        FIN first, then a reset: the peer's socket is in CLOSE_WAIT by then, where tcp_reset() lets a
        read return 0 before any error (SOCK_DONE in tcp_recvmsg). A server whose own FIN is quicker than our
        reset still leaves us in TIME_WAIT: docs/measuring.md has how many. last: the server's FIN is here and
        all was read: ours is the end of it, and leaves nothing.
        """
        self._forget(fd)
        sock = self.sockets.pop(fd, None) or socket.SocketType(self._family, socket.SOCK_STREAM, 0, fd)
        if last:
            sock.close()
        else:
            end(sock)

    def leave(self, fd: int) -> None:
        """Says goodbye before `close`, where the protocol has a word for it."""
        if self._websocket:
            try:
                self._write(fd, frame(CLOSE, close_payload(1000), os.urandom(4)))
            except Lost:
                return

    def end_tls(self, fd: int) -> None:
        """TLS's own goodbye, where TLS is spoken. Its answer is not waited for (RFC 8446, section 6.1)."""
        session = self._sessions.get(fd)
        if session is not None:
            with suppress(OSError):
                session.unwrap()

    def _forget(self, fd: int) -> None:
        self.awaiting -= self.state[fd] > HELD
        self.state[fd] = FREE
        self.count -= 1
        if self.messages is not None:
            self.messages.lost(fd)
        self._readers.pop(fd, None)
        self._responses.pop(fd, None)
        session = self._sessions.pop(fd, None)
        if session is not None:
            session.detach()


def end(sock: socket.SocketType) -> None:
    """FIN, then reset, then closed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        sock.shutdown(socket.SHUT_WR)
    except OSError:  # not connected any more
        pass
    sock.close()


def wants_more(error: OSError) -> bool:
    """Nothing is wrong: the socket, or TLS above it, has to be waited for. By name: ssl is dear to import."""
    return isinstance(error, BlockingIOError) or type(error).__name__ in (
        "SSLWantReadError",
        "SSLWantWriteError",
    )


def _lost(error: OSError) -> Lost:
    if type(error).__module__ == "ssl":
        if type(error).__name__ in ("SSLEOFError", "SSLZeroReturnError"):
            return Lost(causes.EOF, "closed by the server")
        return Lost(causes.TLS, getattr(error, "reason", None) or str(error))
    return Lost(*cause_of(error.errno or 0))
