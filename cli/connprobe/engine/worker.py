"""One worker: an epoll loop that opens its share of connections, holds them, and tells what became of each.

Connections in flight are objects; once established only a byte of state is left (`held`). Totals go to
the worker's row of shared counters after every turn of the loop; words go over the control socket.
"""

import heapq
import marshal
import os
import select
import socket
import time
from array import array
from collections import deque
from typing import Any

from connprobe import causes
from connprobe.engine import counters
from connprobe.engine.failure import Refusal, cause_of
from connprobe.engine.held import FREE, IN_FLIGHT, HeldSet, Lost, end, wants_more
from connprobe.engine.opening import Opening, opening_for
from connprobe.engine.sources import each_source
from connprobe.engine.task import Task, TlsTask
from connprobe.plan.histogram import BUCKETS, bucket
from connprobe.wire.http import ResponseReader

CONNECTING, SHAKING_HANDS, READING = range(3)
OPENS_PER_TURN = 64  # so that answers are read, and their time taken, between bursts
PINGS_PER_TURN = 256
EVENTS_PER_TURN = 512
TICK_S = 0.05
MAX_DETAILS = 20
BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.1, 30.0


Details = dict[str, dict[str, int]]  # cause -> what exactly was seen -> how often


class InFlight:
    """A connection between connect and established."""

    __slots__ = ("attempt", "began", "expected", "reader", "sock", "stage", "unsent")

    def __init__(
        self, sock: socket.SocketType, unsent: bytes, expected: bytes, began: float, attempt: int
    ) -> None:
        self.sock = sock
        self.unsent = unsent
        self.expected = expected
        self.began = began
        self.attempt = attempt  # 0: the first; n: the n-th reconnection
        self.stage = CONNECTING
        self.reader: ResponseReader | None = None


class Worker:
    def __init__(
        self, task: Task, row: memoryview, control: socket.socket, opening: Opening, context: Any
    ) -> None:
        self.task, self.row, self.control = task, row, control
        self.opening = opening
        self.held = HeldSet(
            task.share + 1024, task.family, websocket=task.protocol == "ws", tls=task.tls is not None
        )
        self.flying: dict[int, InFlight] = {}
        self.epoll = select.epoll()
        self.failure_details: Details = {}
        self.drop_details: Details = {}
        self.to_open = task.share
        self.started = self.established = self.failed = 0
        self.ramping = True
        self.attempts = self.reconnected = self.given_up = 0
        self.waiting: list[tuple[float, int]] = []  # heap of (due, attempt)
        self.sources = each_source(task.sources, int(task.target[3]) if len(task.target) == 4 else 0)
        self.next_open = time.monotonic() + task.delay_s
        self.next_tick = 0.0
        self.cursor = 0
        self.ping_debt = 0.0
        self.pinged: deque[tuple[float, int, int]] = deque()  # (pong due, first fd, past last fd)
        self.check_due: float | None = None
        self.drained = False  # everything the kernel had to report since the check began was read
        self.quitting = False
        # Without TLS the C type that socket.socket wraps will do: half the cost of making one.
        self.socket_type = socket.SocketType if task.tls is None else socket.socket
        self.context = context
        # The request then carries the last ACK of the TCP handshake, a packet less
        # (tcp_rcv_synsent_state_process: no ACK by itself where data is about to follow).
        self.speaks_first = task.protocol != "tcp" and context is None and opening.answers
        self.handshakes = array("Q", bytes(8 * BUCKETS))
        self.handshake_sum_us = self.handshake_max_us = 0

    def run(self) -> None:
        self.control.setblocking(False)
        control_fd = self.control.fileno()
        self.epoll.register(control_fd, select.EPOLLIN)
        self.row[counters.BEGAN_NS] = time.monotonic_ns()
        state, flying = self.held.state, self.flying
        while not self.quitting:
            now = time.monotonic()
            if now >= self.next_tick:
                self._tick(now)
            self._open_some(now)
            self._publish()
            ready = self.epoll.poll(self._patience(), EVENTS_PER_TURN)
            for fd, events in ready:
                if fd == control_fd:
                    self._obey()
                elif state[fd] == IN_FLIGHT:
                    self._advance(flying[fd], events)
                elif state[fd] != FREE:
                    try:
                        self.held.readable(fd)
                    except Lost as lost:
                        self._drop(fd, lost.cause, lost.detail)
            self.drained = len(ready) < EVENTS_PER_TURN and self.check_due is not None
        self._close_all()

    # opening

    def _open_some(self, now: float) -> None:
        budget = min(OPENS_PER_TURN, self.task.concurrency - len(self.flying))
        while budget > 0 and self.waiting and self.waiting[0][0] <= now:
            _, attempt = heapq.heappop(self.waiting)
            self.attempts += 1
            self._open(attempt)
            budget -= 1
        while budget > 0 and self.to_open > 0 and self.next_open <= now:
            self.to_open -= 1
            self.started += 1
            self._open(0)
            self.next_open += self.task.interval_s
            budget -= 1

    def _open(self, attempt: int) -> None:
        began = time.monotonic()
        try:
            sock = self.socket_type(self.task.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._failed(attempt, *cause_of(error.errno or 0))
            return
        try:
            next(self.sources).bind(sock)
            if self.speaks_first:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            error_number = sock.connect_ex(self.task.target)
            if error_number not in (0, 115):  # EINPROGRESS
                raise OSError(error_number, os.strerror(error_number))
        except OSError as error:
            sock.close()
            self._failed(attempt, *cause_of(error.errno or 0))
            return
        request, expected = self.opening.request()
        flight = InFlight(sock, request, expected, began, attempt)
        fd = sock.fileno()
        self.flying[fd] = flight
        self.held.state[fd] = IN_FLIGHT
        interest = select.EPOLLOUT
        if self.speaks_first:
            try:  # on loopback the handshake is over already: one wake-up less
                flight.unsent = request[sock.send(request) :]
                if not flight.unsent:
                    flight.stage = READING
                    interest = select.EPOLLIN
            except BlockingIOError:
                pass
            except OSError as error:
                self._fail(flight, *cause_of(error.errno or 0))
                return
        self.epoll.register(fd, interest)

    def _advance(self, flight: InFlight, events: int) -> None:
        try:
            if flight.stage == READING:
                self._read_answer(flight)
            elif flight.stage == CONNECTING:
                self._connected(flight)
            else:
                self._shake_hands(flight)
        except Refusal as refusal:
            self._fail(flight, refusal.cause, refusal.detail)
        except OSError as error:
            if not wants_more(error):  # over TLS a session ticket is readable, and no answer
                self._fail(flight, *self._cause(error))

    def _connected(self, flight: InFlight) -> None:
        error_number = flight.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error_number:
            raise OSError(error_number, os.strerror(error_number))
        if self.context is None:
            self._send_request(flight)
            return
        tls = TlsTask(*self.task.tls)  # type: ignore[misc]
        flight.sock = self.context.wrap_socket(
            flight.sock, server_hostname=tls.server_name, do_handshake_on_connect=False
        )
        flight.stage = SHAKING_HANDS
        self._shake_hands(flight)

    def _shake_hands(self, flight: InFlight) -> None:
        import ssl

        fd = flight.sock.fileno()
        try:
            flight.sock.do_handshake()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            self.epoll.modify(fd, select.EPOLLIN)
        except ssl.SSLWantWriteError:
            self.epoll.modify(fd, select.EPOLLOUT)
        else:
            flight.stage = CONNECTING  # of the layer above: what is left is the request
            self._send_request(flight)

    def _send_request(self, flight: InFlight) -> None:
        if flight.unsent:
            flight.unsent = flight.unsent[flight.sock.send(flight.unsent) :]
        fd = flight.sock.fileno()
        if flight.unsent:
            self.epoll.modify(fd, select.EPOLLOUT)
            return
        self.epoll.modify(fd, select.EPOLLIN)
        flight.stage = READING
        if not self.opening.answers:
            self._establish(flight, b"")

    def _read_answer(self, flight: InFlight) -> None:
        data = flight.sock.recv(4096)
        if not data:
            got = "in the middle of the response" if flight.reader else "before any response"
            raise Refusal(causes.EOF, f"closed {got}")
        leftover = self.opening.answer(flight, data)
        if leftover is not None:
            self._establish(flight, leftover)

    def _establish(self, flight: InFlight, leftover: bytes) -> None:
        sock = flight.sock
        fd = sock.fileno()
        took = int((time.monotonic() - flight.began) * 1e6)
        self.handshakes[bucket(took)] += 1
        self.handshake_sum_us += took
        if took > self.handshake_max_us:
            self.handshake_max_us = took
        del self.flying[fd]
        if flight.attempt:
            self.reconnected += 1
        else:
            self.established += 1
        try:
            self.held.add(sock, leftover)
        except Lost as lost:
            self._drop(fd, lost.cause, lost.detail)

    # what went wrong

    def _cause(self, error: OSError) -> tuple[str, str]:
        if self.context is not None:
            import ssl

            from connprobe.engine.tls import reason

            if isinstance(error, ssl.SSLEOFError):
                return causes.EOF, "closed during the TLS handshake"
            if isinstance(error, ssl.SSLError):
                return causes.TLS, reason(error)
        return cause_of(error.errno or 0)

    def _fail(self, flight: InFlight, cause: str, detail: str) -> None:
        fd = flight.sock.fileno()
        del self.flying[fd]
        self.held.state[fd] = FREE
        end(flight.sock)
        self._failed(flight.attempt, cause, detail)

    def _failed(self, attempt: int, cause: str, detail: str) -> None:
        if attempt:
            self._try_again(attempt)
        else:
            self._count_detail(self.failure_details, cause, detail)
            self.failed += 1
            self.row[counters.FAILED + causes.INDEX[cause]] += 1

    def _drop(self, fd: int, cause: str, detail: str) -> None:
        self.held.close(fd)
        self.row[counters.DROPPED + causes.INDEX[cause]] += 1
        self._count_detail(self.drop_details, cause, detail)
        if self.task.reconnect_attempts and not self.quitting:
            self._try_again(0)

    def _try_again(self, attempts_made: int) -> None:
        """Exponential back-off, factor 2, full jitter: a server that comes back is not trampled."""
        if attempts_made >= self.task.reconnect_attempts:
            self.given_up += 1
            return
        ceiling = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**attempts_made)
        delay = ceiling * int.from_bytes(os.urandom(4), "big") / 2**32
        heapq.heappush(self.waiting, (time.monotonic() + delay, attempts_made + 1))

    def _count_detail(self, details: Details, cause: str, detail: str) -> None:
        seen = details.setdefault(cause, {})
        if detail not in seen and len(seen) >= MAX_DETAILS:
            detail = "others"
        seen[detail] = seen.get(detail, 0) + 1

    # time

    def _tick(self, now: float) -> None:
        self.next_tick = now + TICK_S
        self._publish_handshakes()
        while self.flying:
            flight = next(iter(self.flying.values()))  # the oldest: all have the same patience
            if now - flight.began < self.task.timeout_s:
                break
            self._fail(flight, causes.TIMEOUT, _WAITED_FOR[flight.stage])
        while self.pinged and self.pinged[0][0] <= now:
            self._drop_unanswered(*self.pinged.popleft()[1:])
        if self.check_due is not None:
            self._check(now)
        elif self.task.ping_s and self.held.count:
            owed = self.ping_debt + self.held.count * TICK_S / self.task.ping_s
            self.ping_debt = min(owed, self.held.count)  # one round at the most: no flood after a stall
            self._ping_some(now, min(int(self.ping_debt), PINGS_PER_TURN))

    def _ping_some(self, now: float, most: int) -> None:
        """A slice of the held connections, so that over one ping interval each is pinged once.

        A slice of the round before whose pongs are not yet due is not entered: its check would take the
        new ping, a moment old, for the one that was never answered.
        """
        size = len(self.held.state)
        first = self.cursor
        end = self.pinged[0][1] if self.pinged and self.pinged[0][1] >= first else size
        for _ in range(most):
            fd = self.held.next_held(self.cursor, end)
            if fd < 0:
                self.cursor = end
                break
            self.cursor = fd + 1
            self.ping_debt -= 1
            self._ping(fd)
        if self.cursor > first:
            pong_due = now + min(self.task.timeout_s, self.task.ping_s)
            self.pinged.append((pong_due, first, self.cursor))
        if self.cursor == size:
            self.cursor = 0

    def _ping(self, fd: int) -> None:
        try:
            self.held.ping(fd)
        except Lost as lost:
            self._drop(fd, lost.cause, lost.detail)

    def _drop_unanswered(self, first: int, last: int) -> None:
        fd = self.held.next_unanswered(first, last)
        while fd >= 0:
            self._drop(fd, causes.TIMEOUT, "no pong")
            fd = self.held.next_unanswered(fd + 1, last)

    def _check(self, now: float) -> None:
        """The end of the hold: every WebSocket is pinged, and what does not answer in time is not alive.

        For the other protocols, what the kernel has to say (end of file, reset) was read by this turn.
        """
        size = len(self.held.state)
        if self.task.protocol == "ws":
            for _ in range(PINGS_PER_TURN):
                if (fd := self.held.next_held(self.cursor, size)) < 0:
                    break
                self.cursor = fd + 1
                self._ping(fd)
            else:
                self.next_tick = now
                self.check_due = now + self.task.timeout_s
                return
            self.cursor = size
            if self.held.next_unanswered(0, size) >= 0 and now < (self.check_due or 0):
                return
            self._drop_unanswered(0, size)
        elif not self.drained:
            return
        self.check_due = None
        self._publish_handshakes()
        self._publish()
        self._tell("checked", self.failure_details, self.drop_details)

    def _patience(self) -> float:
        """How long the loop may sleep: until the next thing that is due without an event."""
        now = time.monotonic()
        if (
            self.flying
            or self.waiting
            or self.check_due is not None
            or (self.task.ping_s and self.held.count)
        ):
            wake = self.next_tick
        else:
            wake = now + 1
        if self.to_open and len(self.flying) < self.task.concurrency:
            wake = min(wake, self.next_open)
        return max(0.0, wake - now)

    # the supervisor

    def _obey(self) -> None:
        try:
            data = self.control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        command = marshal.loads(data)[0] if data else "abandoned"
        if command == "stop":
            self.to_open = 0
        elif command == "check":
            self.to_open = 0
            self.waiting.clear()
            self.pinged.clear()
            self.cursor = 0
            self.drained = False
            self.check_due = time.monotonic() + self.task.timeout_s
            self.next_tick = 0.0
        elif command in ("quit", "abandoned"):
            self.quitting = True

    def _tell(self, *message: Any) -> None:
        self.control.setblocking(True)
        try:
            self.control.send(marshal.dumps(message))
        except OSError:  # nobody listens any more; the end of file on this socket says so next
            return
        finally:
            self.control.setblocking(False)

    def _publish_handshakes(self) -> None:
        row = self.row
        row[counters.HANDSHAKES :] = memoryview(self.handshakes)
        row[counters.HANDSHAKE_SUM_US] = self.handshake_sum_us
        row[counters.HANDSHAKE_MAX_US] = self.handshake_max_us

    def _publish(self) -> None:
        row, held = self.row, self.held
        row[counters.STARTED] = self.started
        row[counters.HELD] = held.count  # before ESTABLISHED: who reads that all are, reads them held
        row[counters.ESTABLISHED] = self.established
        row[counters.IN_FLIGHT] = len(self.flying)
        row[counters.PINGS] = held.pings
        row[counters.PONGS] = held.pongs
        row[counters.RECONNECT_ATTEMPTS] = self.attempts
        row[counters.RECONNECTED] = self.reconnected
        row[counters.GIVEN_UP] = self.given_up
        row[counters.WAITING] = len(self.waiting)
        row[counters.BYTES_READ] = held.bytes_read
        if self.ramping and self.established + self.failed >= self.task.share:
            self.ramping = False
            self._publish_handshakes()
            row[counters.RAMPED_NS] = time.monotonic_ns()

    def _close_all(self) -> None:
        self._publish_handshakes()
        self._publish()  # what was lost in this turn is counted as dropped already: the last word adds up
        self._tell("ended", self.failure_details, self.drop_details)
        self.epoll.close()
        for flight in self.flying.values():
            end(flight.sock)
        fds = [fd for fd, state in enumerate(self.held.state) if state > IN_FLIGHT]
        for fd in fds:
            self.held.leave(fd)
            self.held.close(fd)


_WAITED_FOR = {
    CONNECTING: "no answer to SYN",
    SHAKING_HANDS: "in the TLS handshake",
    READING: "connected, but the request was not answered",
}


def prepare(first: tuple[Any, ...]) -> tuple[Opening, Any]:
    """What all workers have in common: how connections are opened, and the TLS context or None."""
    task = Task(*first)
    if task.tls is None:
        return opening_for(task), None
    from connprobe.engine.tls import client_context

    return opening_for(task), client_context(TlsTask(*task.tls), task.protocol)


def run(task: tuple[Any, ...], row: memoryview, control: socket.socket, shared: tuple[Opening, Any]) -> None:
    Worker(Task(*task), row, control, *shared).run()
