"""Connections between connect(2) and established: each an object that advances with its events."""

import errno
import os
import select
import socket
import time
from typing import Any

from connprobe import causes
from connprobe.engine.failure import Refusal, cause_of
from connprobe.engine.held import end, wants_more
from connprobe.engine.opening import Opening
from connprobe.engine.sources import Source, each_source
from connprobe.engine.task import Task, TlsTask
from connprobe.wire.http import ResponseReader

CONNECTING, SHAKING_HANDS, SENDING, READING = range(4)
_WAITED_FOR = {
    CONNECTING: "no answer to SYN",
    SHAKING_HANDS: "in the TLS handshake",
    SENDING: "connected, but the request was not taken",
    READING: "connected, but the request was not answered",
}


class Flight:
    __slots__ = ("attempt", "began", "expected", "fd", "reader", "sock", "stage", "unsent")

    def __init__(
        self, sock: socket.SocketType, unsent: bytes, expected: bytes, began: float, attempt: int
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.unsent = unsent
        self.expected = expected
        self.began = began
        self.attempt = attempt  # 0: the first; n: the n-th reconnection
        self.stage = CONNECTING
        self.reader: ResponseReader | None = None


class Flights:
    """All connections of a worker that are in flight, by descriptor.

    Whatever ends one in failure is raised as `Refusal` (cause, detail), with its socket closed.
    """

    def __init__(self, task: Task, epoll: select.epoll, opening: Opening, context: Any) -> None:
        self.by_fd: dict[int, Flight] = {}
        self._task, self._epoll, self._opening, self._context = task, epoll, opening, context
        self._sources = each_source(task.sources, int(task.target[3]) if len(task.target) == 4 else 0)
        # Without TLS the C type that socket.socket wraps will do: half the cost of making one.
        self._socket_type = socket.SocketType if task.tls is None else socket.socket
        # The request then carries the last ACK of the TCP handshake, a packet less
        # (tcp_rcv_synsent_state_process: no ACK by itself where data is about to follow).
        self._speaks_first = task.protocol != "tcp" and context is None and opening.answers

    def __len__(self) -> int:
        return len(self.by_fd)

    def open(self, attempt: int) -> Flight:
        """Begins a connection; `launch` is to follow."""
        began = time.monotonic()
        source = next(self._sources)
        try:
            sock = self._connect(source)
        except OSError as error:
            sock = self._connect_again(source, error)
        request, expected = self._opening.request()
        flight = Flight(sock, request, expected, began, attempt)
        self.by_fd[flight.fd] = flight
        return flight

    def _connect_again(self, source: Source, error: OSError) -> socket.SocketType:
        """Tries the source's other ports, where that may help."""
        for _ in range(source.more_tries):
            if error.errno != errno.EADDRNOTAVAIL:
                break
            try:
                return self._connect(source)
            except OSError as another:
                error = another
        raise Refusal(*cause_of(error.errno or 0)) from error

    def _connect(self, source: Source) -> socket.SocketType:
        sock = self._socket_type(self._task.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            source.bind(sock)
            if self._speaks_first:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            number = sock.connect_ex(self._task.target)
            if number not in (0, errno.EINPROGRESS):
                raise OSError(number, os.strerror(number))
        except OSError:
            sock.close()
            raise
        return sock

    def launch(self, flight: Flight) -> None:
        """Sends the request if it can be sent already, and waits for what comes next."""
        interest = select.EPOLLOUT
        try:
            if self._speaks_first:
                try:  # on loopback the handshake is over already: one wake-up less
                    flight.unsent = flight.unsent[flight.sock.send(flight.unsent) :]
                    if not flight.unsent:
                        flight.stage, interest = READING, select.EPOLLIN
                except BlockingIOError:
                    pass
            self._epoll.register(flight.fd, interest)
        except OSError as error:
            self._forget(flight)
            raise Refusal(*cause_of(error.errno or 0)) from error

    def advance(self, flight: Flight) -> bytes | None:
        """None: still in flight. Bytes: established, and these followed the answer; the socket is the
        caller's."""
        try:
            leftover = self._advance(flight)
        except Refusal:
            self._forget(flight)
            raise
        except OSError as error:
            if wants_more(error):  # over TLS a session ticket is readable, and no answer
                return None
            self._forget(flight)
            raise Refusal(*self._cause(error)) from error
        if leftover is not None:
            del self.by_fd[flight.fd]
        return leftover

    def overdue(self, before: float) -> Flight | None:
        """The oldest flight if it began before that time: all have the same patience."""
        oldest = next(iter(self.by_fd.values()), None)
        return oldest if oldest is not None and oldest.began < before else None

    def give_up(self, flight: Flight) -> Refusal:
        """Ends a flight that took too long; what it waited for is the detail."""
        self._forget(flight)
        waited_for = _WAITED_FOR[flight.stage]
        if flight.reader is not None:
            waited_for = "the response began and did not end"
        return Refusal(causes.TIMEOUT, waited_for)

    def close(self) -> None:
        for flight in self.by_fd.values():
            end(flight.sock)
        self.by_fd.clear()

    def _forget(self, flight: Flight) -> None:
        del self.by_fd[flight.fd]
        end(flight.sock)

    def _advance(self, flight: Flight) -> bytes | None:
        if flight.stage == READING:
            data = flight.sock.recv(4096)
            if self._context is not None:  # the rest of the record is here already: no event will tell
                data += flight.sock.recv(flight.sock.pending()) if flight.sock.pending() else b""  # type: ignore[attr-defined]
            if not data:
                got = "in the middle of the response" if flight.reader else "before any response"
                raise Refusal(causes.EOF, f"closed {got}")
            return self._opening.answer(flight, data)
        if flight.stage == CONNECTING:
            number = flight.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
            flight.stage = SENDING
            if self._context is not None:
                self._wrap(flight)
        if flight.stage == SHAKING_HANDS and not self._shake_hands(flight):
            return None
        return self._send_request(flight)

    def _wrap(self, flight: Flight) -> None:
        tls = TlsTask(*self._task.tls)  # type: ignore[misc]
        flight.sock = self._context.wrap_socket(
            flight.sock, server_hostname=tls.server_name, do_handshake_on_connect=False
        )
        flight.stage = SHAKING_HANDS

    def _shake_hands(self, flight: Flight) -> bool:
        import ssl

        try:
            flight.sock.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            self._epoll.modify(flight.fd, select.EPOLLIN)
            return False
        except ssl.SSLWantWriteError:
            self._epoll.modify(flight.fd, select.EPOLLOUT)
            return False
        flight.stage = SENDING
        return True

    def _send_request(self, flight: Flight) -> bytes | None:
        if flight.unsent:
            flight.unsent = flight.unsent[flight.sock.send(flight.unsent) :]
        if flight.unsent:
            self._epoll.modify(flight.fd, select.EPOLLOUT)
            return None
        self._epoll.modify(flight.fd, select.EPOLLIN)
        flight.stage = READING
        return None if self._opening.answers else b""

    def _cause(self, error: OSError) -> tuple[str, str]:
        if self._context is not None:
            import ssl

            from connprobe.engine.tls import reason

            if isinstance(error, ssl.SSLEOFError):
                return causes.EOF, "closed during the TLS handshake"
            if isinstance(error, ssl.SSLError):
                return causes.TLS, reason(error)
        return cause_of(error.errno or 0)
