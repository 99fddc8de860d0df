"""The connections that are established: one byte of state each, indexed by file descriptor.

Nothing else is kept for an idle connection. A frame that arrived in part has a reader until it is
whole; a TLS connection has its session. All else is in the kernel.
"""

import os
import socket
from typing import Any

from connprobe import causes
from connprobe.engine.failure import cause_of
from connprobe.errors import ProtocolViolation
from connprobe.wire.websocket import CLOSE, PING, PONG, FrameReader, close_payload, frame

FREE, IN_FLIGHT, HELD, AWAITS_PONG = 0, 1, 2, 3
_LINGER_RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {1, 0}
_HELD, _AWAITS_PONG = b"\x02", b"\x03"


class Lost(Exception):
    """A held connection is no more: (cause, detail)."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause, detail)
        self.cause, self.detail = cause, detail


class HeldSet:
    """State of up to `size` descriptors of one worker."""

    def __init__(self, size: int, family: int, *, websocket: bool, tls: bool) -> None:
        self.state = bytearray(size)
        self.count = 0
        self.pings = 0
        self.pongs = 0
        self.bytes_read = 0
        self._family = family
        self._websocket, self._tls = websocket, tls
        self._readers: dict[int, FrameReader] = {}
        self._sessions: dict[int, Any] = {}  # fd -> ssl.SSLSocket
        self._payload = os.urandom(4)  # of all our pings: a pong that carries it answers one of them
        self._pong = b"\x8a\x04" + self._payload

    def add(self, sock: socket.SocketType, leftover: bytes) -> None:
        """Takes over an established socket. Raises Lost when what followed the handshake ends it."""
        fd = sock.fileno()
        if self._tls:
            self._sessions[fd] = sock
        else:
            sock.detach()
        self.state[fd] = HELD
        self.count += 1
        if leftover and self._websocket:
            self._frames(fd, leftover)

    def readable(self, fd: int) -> None:
        """Reads what arrived on a held connection. Raises Lost."""
        session = self._sessions.get(fd)
        try:
            data = os.read(fd, 65536) if session is None else session.recv(65536)
            while True:
                if not data:
                    raise Lost(causes.EOF, "closed by the server")
                self.bytes_read += len(data)
                if data == self._pong and fd not in self._readers:
                    self._ponged(fd)
                elif self._websocket:
                    self._frames(fd, data)
                if session is None or not session.pending():
                    return
                data = session.recv(65536)
        except OSError as error:
            if wants_more(error):
                return
            raise _lost(error) from error

    def _ponged(self, fd: int) -> None:
        if self.state[fd] == AWAITS_PONG:
            self.state[fd] = HELD
            self.pongs += 1

    def _frames(self, fd: int, data: bytes) -> None:
        reader = self._readers.pop(fd, None) or FrameReader(from_client=False, keep=None)
        try:
            events = reader.feed(data)
        except ProtocolViolation as violation:
            self._write(fd, frame(CLOSE, close_payload(getattr(violation, "code", 1002)), os.urandom(4)))
            raise Lost(causes.PROTOCOL, str(violation)) from violation
        for event in events:
            if event.opcode == PING:
                self._write(fd, frame(PONG, event.payload, os.urandom(4)))
            elif event.opcode == PONG:
                if event.payload == self._payload:
                    self._ponged(fd)
            elif event.opcode == CLOSE:
                self._write(fd, frame(CLOSE, event.payload[:2], os.urandom(4)))
                raise Lost(causes.EOF, f"close frame {event.code or 'without a code'}")
        if not reader.at_boundary:
            self._readers[fd] = reader

    def _write(self, fd: int, data: bytes) -> bool:
        """False: the peer reads too slowly for ten bytes to fit."""
        session = self._sessions.get(fd)
        try:
            if session is None:
                os.write(fd, data)
            else:
                session.send(data)
        except OSError as error:
            if wants_more(error):
                return False
            raise _lost(error) from error
        return True

    def ping(self, fd: int) -> None:
        """Sends a ping and waits for its pong. Raises Lost."""
        self.state[fd] = AWAITS_PONG
        if self._write(fd, frame(PING, self._payload, os.urandom(4))):
            self.pings += 1

    def next_held(self, start: int, end: int) -> int:
        """The first held descriptor in [start, end) that waits for no pong, or -1."""
        return self.state.find(_HELD, start, end)

    def next_unanswered(self, start: int, end: int) -> int:
        return self.state.find(_AWAITS_PONG, start, end)

    def close(self, fd: int) -> None:
        """Ends one connection so that the server reads a clean end and hardly one keeps TIME_WAIT.

        FIN first, then a reset: the peer's socket is in CLOSE_WAIT by then, where tcp_reset() lets a
        read return 0 before any error (SOCK_DONE in tcp_recvmsg). A server whose own FIN is quicker than our
        reset still leaves us in TIME_WAIT: some 8 % on loopback.
        """
        self._forget(fd)
        end(socket.SocketType(self._family, socket.SOCK_STREAM, 0, fd))

    def leave(self, fd: int) -> None:
        """Says goodbye before `close`, where the protocol has a word for it."""
        if self._websocket:
            try:
                self._write(fd, frame(CLOSE, close_payload(1000), os.urandom(4)))
            except Lost:
                return

    def _forget(self, fd: int) -> None:
        self.state[fd] = FREE
        self.count -= 1
        self._readers.pop(fd, None)
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
