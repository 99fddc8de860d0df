"""Connections between connect(2) and established.

Most go the short way: their request is sent at once, and their answer is one that was judged before. Of
such a connection only what `Asked` names is kept. One that is not so lucky becomes a `Flight`, an object
that advances with its events.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat, takewhile
from typing import Any

from connprobe import causes
from connprobe.engine import batches
from connprobe.engine.batches import Batches
from connprobe.engine.bursts import LEAST, UNTOLD, WAITS, Bursts, ReadAndWatched
from connprobe.engine.failure import Refusal, cause_of
from connprobe.engine.held import end, wants_more
from connprobe.engine.opening import Opening
from connprobe.engine.sources import Source, Sources
from connprobe.engine.task import Task, TlsTask
from connprobe.wire.http import ResponseReader

CONNECTING, SHAKING_HANDS, SENDING, READING = range(4)
ANSWER_BYTES = 4096  # of an answer in one read
_WAITED_FOR = {
    CONNECTING: "no answer to SYN",
    SHAKING_HANDS: "in the TLS handshake",
    SENDING: "connected, but the request was not taken",
    READING: "connected, but the request was not answered",
}


# A request was sent and nothing has come back: (socket, what to expect, when it began). No class: of 400,000
# connections each would pay for making one; nor an object of its socket, where io_uring opened it.
Asked = tuple[socket.SocketType | None, bytes, float]
# Of a turn: the descriptors in flight, and of each that failed the attempt and why.
Begun = tuple[Sequence[int], list[tuple[int, Refusal]]]
_NOTHING_APART = nullcontext()


class Flight:
    __slots__ = ("attempt", "began", "expected", "fd", "late", "reader", "sock", "stage", "unsent")

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
        self.late = (
            0  # the errno that ended it behind what there is to read, where the socket tells it no more
        )
        self.reader: ResponseReader | None = None


class Flights:
    """All connections of a worker that are in flight, by descriptor.

    Whatever ends one in failure is raised as `Refusal` (cause, detail), with its socket closed.
    """

    def __init__(
        self,
        task: Task,
        epoll: select.epoll,
        opening: Opening,
        context: Any,
        apart: AbstractContextManager[None] = _NOTHING_APART,
    ) -> None:
        self.by_fd: dict[int, Flight] = {}
        self.asked: dict[int, Asked] = {}
        self.batches = Batches()
        self.resumed = 0  # TLS handshakes that took up an earlier session
        self._tls = TlsTask(*task.tls) if task.tls is not None else None
        self._session: Any = None  # the last one that a server gave a ticket for
        self._by_age = True  # by_fd is in the order in which its flights began
        self._task, self._epoll, self._opening, self._context = task, epoll, opening, context
        self._sources = Sources(task.sources, int(task.target[3]) if len(task.target) == 4 else 0)
        # Without TLS the C type that socket.socket wraps will do: half the cost of making one.
        self._socket_type = socket.SocketType if task.tls is None else socket.socket
        self._speaks_first = task.protocol != "tcp" and context is None and opening.answers
        self.bursts = Bursts(task, epoll.fileno(), speaks_first=self._speaks_first, apart=apart)

    def __len__(self) -> int:
        return len(self.by_fd) + len(self.asked) + len(self.batches)

    def open(self, attempts: list[int], *, paced: bool = False) -> Begun:
        """Begins a connection for each of `attempts` (0: a first one): all connect, then all speak.

        paced: by a rate, so that it is of interest what each takes.
        """
        if len(attempts) >= LEAST and self.bursts.serves and not any(attempts):
            begun = self._open_burst(len(attempts), may_mark=not paced)
            if begun is not None:
                return begun
        flying: list[int] = []
        failed: list[tuple[int, Refusal]] = []
        clock, connect, sources = time.monotonic, self._connect, self._sources
        connected = []
        for attempt in attempts:
            began = clock()
            try:
                connected.append((attempt, connect(next(sources)), began))
            except Refusal as refusal:
                failed.append((attempt, refusal))
        speaks, watch = self._speaks_first, self._epoll.register
        requests, first = self._opening.requests(len(connected))
        answers = self._opening.expected(first, len(connected))
        for (attempt, sock, began), request, expected in zip(
            connected, _each(requests, len(connected)), answers, strict=True
        ):
            fd = sock.fileno()
            try:
                # On loopback the TCP handshake is over already: one wake-up less.
                sent = sock.send(request) if speaks else 0
            except BlockingIOError:
                sent = 0
            except OSError as error:
                end(sock)
                failed.append((attempt, Refusal(*cause_of(error.errno or 0))))
                continue
            try:
                if sent and sent == len(request) and not attempt:
                    watch(fd, select.EPOLLIN)
                    self.asked[fd] = (sock, expected, began)
                else:
                    watch(fd, select.EPOLLOUT)
                    self.by_fd[fd] = Flight(sock, request[sent:], expected, began, attempt)
            except OSError as error:
                end(sock)
                failed.append((attempt, Refusal(*cause_of(error.errno or 0))))
            else:
                flying.append(fd)
        return flying, failed

    def _open_burst(self, number: int, *, may_mark: bool) -> Begun | None:
        """The same by io_uring. None: it cannot, and nothing was begun."""
        began, (requests, first) = time.monotonic(), self._opening.requests(number)
        size = len(requests) // number
        if not self.bursts.ready(size):
            return None
        mark = may_mark and number >= batches.LEAST and self._alike()
        opened = self.bursts.open(requests, self._sources, number, mark=mark)
        if opened is None:
            return None
        fds, sent = opened
        if marks := self.bursts.marks:
            self.batches.add(fds, first, began, marks)
            return fds, []
        expected = self._opening.expected(first, number)
        if sent is None:
            alike = zip(repeat(None, number), expected, repeat(began, number), strict=True)
            self.asked.update(zip(fds, alike, strict=True))
            return fds, []
        return self._begun(zip(fds, sent, _each(requests, number), expected, strict=True), began)

    def _alike(self) -> bool:
        """Whether answers are known, and can be read together."""
        opening = self._opening
        return (
            opening.known is not None and opening.may_be_followed and self.bursts.reads(opening.known_bytes)
        )

    def _begun(self, opened: Iterable[tuple[int, int, bytes, bytes]], began: float) -> Begun:
        late, waiting = self.bursts.late, self.asked
        flying: list[int] = []
        failed: list[tuple[int, Refusal]] = []
        for fd, sent, request, expected in opened:
            if sent == len(request):
                if fd in late:
                    self.long_way(fd, (None, expected, began)).late = late[fd]
                else:
                    waiting[fd] = (None, expected, began)
            elif sent > 0 or sent == WAITS:
                self._epoll.modify(fd, select.EPOLLOUT)
                self.by_fd[fd] = Flight(self._socket(fd), request[max(sent, 0) :], expected, began, 0)
            else:
                if fd >= 0:
                    end(self._socket(fd))
                failed.append((0, Refusal(*cause_of(-sent))))
                continue
            flying.append(fd)
        return flying, failed

    def read_and_watch(self, fds: Sequence[int], length: int) -> ReadAndWatched:
        """Of a batch: see Ring.read_and_watch. What io_uring cannot read is watched alone."""
        read = self.bursts.read_and_watch(fds, length) if self.bursts.reads(length) else None
        sizes, data, watched = read or ([-errno.EAGAIN] * len(fds), b"", [UNTOLD] * len(fds))
        if UNTOLD in watched:
            watched = [
                self._watch(fd) if error == UNTOLD else error for fd, error in zip(fds, watched, strict=True)
            ]
        return sizes, data, watched

    def _watch(self, fd: int) -> int:
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except FileExistsError:
            self._epoll.modify(fd, select.EPOLLIN)
        except OSError as error:
            return -(error.errno or 0)
        return 0

    def end(self, fd: int, asked: Asked) -> None:
        end(asked[0] or self._socket(fd))

    def _socket(self, fd: int) -> socket.SocketType:
        return self._socket_type(self._task.family, socket.SOCK_STREAM, 0, fd)

    def _connect(self, source: Source) -> socket.SocketType:
        try:
            return self._connect_once(source)
        except OSError as error:
            return self._connect_again(source, error)

    def _connect_again(self, source: Source, error: OSError) -> socket.SocketType:
        """Tries the source's other ports, where that may help."""
        for _ in range(source.more_tries):
            if error.errno != errno.EADDRNOTAVAIL:
                break
            try:
                return self._connect_once(source)
            except OSError as another:
                error = another
        raise Refusal(*cause_of(error.errno or 0)) from error

    def _connect_once(self, source: Source) -> socket.SocketType:
        sock = self._socket_type(self._task.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            source.bind(sock)
            number = sock.connect_ex(self._task.target)
            if number not in (0, errno.EINPROGRESS):
                raise OSError(number, os.strerror(number))
        except OSError:
            sock.close()
            raise
        return sock

    def long_way(self, fd: int, asked: Asked) -> Flight:
        """Its answer is not there whole, or not known."""
        sock, expected, began = asked
        flight = self.by_fd[fd] = Flight(sock or self._socket(fd), b"", expected, began, 0)
        flight.stage = READING
        self._by_age = False
        return flight

    def advance(self, flight: Flight, data: bytes | None = None) -> bytes | None:
        """None: still in flight. Bytes: established, and these followed the answer; the socket is the
        caller's. data: what was read already."""
        try:
            leftover = self._advance(flight, data)
        except Refusal as refusal:
            self._forget(flight)
            if flight.late and refusal.cause == causes.EOF:
                raise Refusal(*cause_of(flight.late)) from refusal
            raise
        except OSError as error:
            if wants_more(error):  # over TLS a session ticket is readable, and no answer
                return None
            self._forget(flight)
            raise Refusal(*self._cause(error)) from error
        if leftover is not None:
            del self.by_fd[flight.fd]
            if self._tls is not None and self._tls.resume:
                self._keep_session(flight.sock)
        return leftover

    def overdue(self, before: float) -> list[Flight]:
        """Those that began before that time, or a little later where they were of a batch."""
        asked = [fd for fd, _ in takewhile(lambda item: item[1][2] < before, self.asked.items())]
        for fd in asked:
            self.long_way(fd, self.asked.pop(fd))
        if self._by_age:
            return list(takewhile(lambda flight: flight.began < before, self.by_fd.values()))
        self._by_age = not self.by_fd
        return [flight for flight in self.by_fd.values() if flight.began < before]

    def give_up(self, flight: Flight) -> Refusal:
        """Ends a flight that took too long; what it waited for is the detail."""
        self._forget(flight)
        waited_for = _WAITED_FOR[flight.stage]
        if flight.reader is not None:
            waited_for = "the response began and did not end"
        return Refusal(causes.TIMEOUT, waited_for)

    def close(self) -> None:
        self.bursts.rest()
        for flight in self.by_fd.values():
            end(flight.sock)
        for fd, asked in self.asked.items():
            self.end(fd, asked)
        for batch in self.batches.by_age:
            for fd in batch.fds:
                end(self._socket(fd))
        self.by_fd.clear()
        self.asked.clear()
        self.batches = Batches()

    def _forget(self, flight: Flight) -> None:
        del self.by_fd[flight.fd]
        end(flight.sock)

    def _advance(self, flight: Flight, data: bytes | None) -> bytes | None:
        if flight.stage == READING:
            if data is None:
                data = flight.sock.recv(ANSWER_BYTES)
            if self._context is not None:  # the rest of the record is here already: no event will tell
                data += flight.sock.recv(flight.sock.pending()) if flight.sock.pending() else b""  # type: ignore[attr-defined]
            if not data:
                got = "in the middle of the response" if flight.reader else "before any response"
                raise Refusal(causes.EOF, f"closed {got}")
            return self._opening.answer(flight, data)
        if flight.stage == CONNECTING:
            number = flight.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number == errno.ECONNRESET and self._context is None and not flight.unsent:
                flight.late, number = number, 0  # only what is connected can be reset (tcp_reset)
            if number:
                raise OSError(number, os.strerror(number))
            flight.stage = SENDING
            if self._context is not None:
                self._wrap(flight)
        if flight.stage == SHAKING_HANDS and not self._shake_hands(flight):
            return None
        return self._send_request(flight)

    def _wrap(self, flight: Flight) -> None:
        assert self._tls is not None
        flight.sock = self._context.wrap_socket(
            flight.sock, server_hostname=self._tls.server_name, do_handshake_on_connect=False
        )
        if self._session is not None:
            flight.sock.session = self._session  # type: ignore[attr-defined]
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
        self.resumed += flight.sock.session_reused  # type: ignore[attr-defined]
        return True

    def _keep_session(self, sock: Any) -> None:
        """Of TLS 1.3 the ticket comes after the handshake, before the first answer."""
        session = sock.session
        if session is not None and session.has_ticket:
            self._session = session

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


def _each(requests: bytes, number: int) -> list[bytes]:
    """So many requests of one length, one by one."""
    size = len(requests) // max(1, number)
    return [requests[index * size : (index + 1) * size] for index in range(number)]
