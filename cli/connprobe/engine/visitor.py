"""A worker whose connections do not stay: each says its messages, closes, and makes room for the next.

The loop is the Worker's. With a rate, connections begin on a schedule that waits for nobody, and their
handshakes are timed from the moment that it names: a server that stalls delays also those that could not
begin meanwhile.
"""

import select
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from connprobe import causes
from connprobe.engine import counters
from connprobe.engine.flights import Asked, Flight
from connprobe.engine.held import HELD, IN_FLIGHT, Lost
from connprobe.engine.opening import Opening
from connprobe.engine.talk import talk_for
from connprobe.engine.task import Task, VisitsTask
from connprobe.engine.visits import RIGHT, WRONG, Visits
from connprobe.engine.worker import Worker

# struct tcp_info of linux/tcp.h: tcpi_state, tcpi_bytes_received (4.1), tcpi_bytes_sent and _retrans (4.19)
_TCP_INFO_BYTES, _RECEIVED, _SENT = 216, 128, 200
_CLOSE_WAIT = 8
EXACT_S = 0.02
SELECT_MOST = 1024  # descriptors that select(2) takes


class Visitor(Worker):
    def __init__(
        self, task: Task, row: memoryview, control: socket.socket, opening: Opening, context: Any
    ) -> None:
        super().__init__(task, row, control, opening, context)
        assert task.visits is not None
        asked = VisitsTask(*task.visits)
        self.visits = self.held.messages = Visits(
            self.held,
            self.epoll,
            talk_for(task, opening, asked.payload, varied=asked.varied, strict=True),
            messages=asked.messages,
            websocket=self.websocket,
            timeout_s=task.timeout_s,
            tally=self.tally,
        )
        self.until = self.goal.next_at + asked.for_s if asked.for_s else float("inf")
        self.late_us: dict[int, int] = {}  # of connections in flight: how much after their time they began
        self.late_sum_us = self.late_max_us = 0
        self.over, self.over_ns = 0, time.monotonic_ns()  # connections, and when the last of them was
        self.began_cpu_ns = self.over_cpu_ns = 0
        self.visited = self.sent_bytes = self.received_bytes = self.unmeasured = 0

    def run(self) -> None:
        if self.task.interval_s:
            with suppress(OSError), open("/proc/self/timerslack_ns", "w") as slack:  # noqa: PTH123 lean
                slack.write("1")  # ns instead of 50 us: how late the kernel may wake us from select
        self.began_cpu_ns = self.over_cpu_ns = time.process_time_ns()
        super().run()

    def _open_some(self, now: float) -> None:
        goal = self.goal
        if not goal.interval_s:
            goal.to_open = goal.to_open if now < self.until else 0
            super()._open_some(now)
            return
        for _ in range(min(self._room(), goal.to_open)):
            intended = goal.next_at
            if intended > now or intended >= self.until - goal.interval_s / 1000:
                break
            goal.next_at += goal.interval_s
            goal.to_open -= 1
            self.tally.started += 1
            late_us = int((time.monotonic() - intended) * 1e6)
            self.late_sum_us += late_us
            self.late_max_us = max(self.late_max_us, late_us)
            begun, failed = self.flights.open([0])
            for fd in begun:
                self.held.state[fd] = IN_FLIGHT
                self.late_us[fd] = late_us
            for each in failed:
                self._failed(*each)
        if now >= self.until:  # what is still due by now has no room: it is told as not begun
            goal.to_open = 0

    def _most(self) -> int:
        return self.task.concurrency  # workers of a load are processes

    def _under_way(self) -> int:
        return len(self.flights) + self.held.count

    def _least(self, most: int) -> int:
        return 1  # as many as may be are open at any time

    def _answered(self, fd: int, asked: Asked) -> None:
        before = len(self.tally.took_us)
        super()._answered(fd, asked)
        self._begin(fd, before)

    def _advance(self, fd: int, flight: Flight, data: bytes | None = None) -> None:
        before = len(self.tally.took_us)
        super()._advance(fd, flight, data)
        self._begin(fd, before)

    def _begin(self, fd: int, before: int) -> None:
        """The visit, where the handshake of `fd` is among those that were timed since there were `before`."""
        if len(self.tally.took_us) == before:
            return
        self.tally.took_us[-1] += self.late_us.pop(fd, 0)
        if self.held.state[fd] == HELD and fd not in self.visits:
            try:
                self.visits.begin(fd)
            except Lost as lost:
                self._drop(fd, lost.cause, lost.detail)

    def _drop(self, fd: int, cause: str, detail: str) -> None:
        ended = self._measure(fd)
        parting = self.visits.parting(fd)
        if cause in (RIGHT, WRONG) or parting == WRONG:  # a wrong echo is counted, however it parts
            self.visited += cause == RIGHT
            self.held.end_tls(fd)
            self.held.close(fd, last=ended and cause == RIGHT and not self.task.tls)
            return
        if cause == causes.EOF and parting:
            detail = "closed without a close frame"
        super()._drop(fd, cause, detail)

    def _measure(self, fd: int) -> bool:
        """Adds up what this connection carried. True: the server has closed it."""
        kept = self.held.sockets.get(fd)
        sock = kept or socket.SocketType(self.task.family, socket.SOCK_STREAM, 0, fd)
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        # The state is read before the counts, and a FIN may come between the two (tcp_get_info()).
        if info[0] != _CLOSE_WAIT:
            again = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            info = again if again[0] == _CLOSE_WAIT else info
        if kept is None:
            sock.detach()
        ended = bool(info[0] == _CLOSE_WAIT)
        if len(info) < _TCP_INFO_BYTES:
            self.unmeasured += 1
            return ended
        sent, retransmitted = struct.unpack_from("=QQ", info, _SENT)
        self.sent_bytes += sent - retransmitted
        # A FIN counts as a byte there: tcp_rcv_nxt_update() adds up sequence numbers.
        self.received_bytes += struct.unpack_from("=Q", info, _RECEIVED)[0] - ended
        return ended

    def _patience(self) -> float:
        """Waits here where a start is due within milliseconds: those of epoll_wait are whole ones, and by
        up to one each would begin too late. A longer wait ends early there: its rest is such a one."""
        patience = super()._patience()
        if not self.goal.interval_s or not patience or self.epoll.fileno() >= SELECT_MOST:
            return patience
        if patience >= EXACT_S:
            return patience - EXACT_S / 2
        select.select([self.epoll], [], [], patience)
        return 0.0

    def _settled(self) -> bool:
        return not self.goal.to_open and self.tally.started == self.over

    def _settled_ns(self) -> int:
        """The last connection may have been over long before the time was in which more might begin."""
        return self.over_ns

    def _close_all(self) -> None:
        for fd in self.visits.wrong():  # they are counted as wrong, and may not be as held too
            self._drop(fd, WRONG, "")
        super()._close_all()

    def _publish(self) -> None:
        over = self.tally.established + self.tally.failed - self.held.count
        if over != self.over:
            self.over, self.over_ns, self.over_cpu_ns = over, time.monotonic_ns(), time.process_time_ns()
        row = self.row
        row[counters.CPU_NS] = self.over_cpu_ns - self.began_cpu_ns
        row[counters.VISITED] = self.visited
        row[counters.SENT_BYTES] = self.sent_bytes
        row[counters.RECEIVED_BYTES] = self.received_bytes
        row[counters.UNMEASURED] = self.unmeasured
        row[counters.LATE_SUM_US] = self.late_sum_us
        row[counters.LATE_MAX_US] = self.late_max_us
        super()._publish()
