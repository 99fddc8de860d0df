"""One worker: an epoll loop that opens its share of connections, holds them, and tells what became of each.

Connections in flight are objects (`flights`); once established only a byte of state is left (`held`).
Numbers go to the worker's row of shared counters after every turn of the loop, words over the control
socket.
"""

import marshal
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from connprobe.engine import counters
from connprobe.engine.answers import Answers
from connprobe.engine.backoff import Backoff
from connprobe.engine.bursts import MOST
from connprobe.engine.failure import Refusal, cause_of
from connprobe.engine.flights import Asked, Flight, Flights
from connprobe.engine.goal import Goal
from connprobe.engine.held import FREE, IN_FLIGHT, HeldSet, Lost
from connprobe.engine.opening import Opening, opening_for
from connprobe.engine.pings import Pings
from connprobe.engine.tally import Tally
from connprobe.engine.task import Task, TlsTask
from connprobe.engine.together import Part, Together
from connprobe.engine.turn import Turn

OPENS_PER_TURN = MOST  # so that answers are read, and their time taken, between bursts
EVENTS_PER_TURN = 512
TICK_S = 0.05
RECOVERED_S = 30.0  # a reconnection that lasts so long was a success: the back-off begins anew
# Where several are threads of one process, one works while the others wait: for events, for a burst that
# they open, or for their turn. Without it the interpreter's lock would change hands with each system call.
TURN = Turn()
TOGETHER = Together()


class Worker:
    def __init__(
        self, task: Task, row: memoryview, control: socket.socket, opening: Opening, context: Any
    ) -> None:
        self.task, self.row, self.control = task, row, control
        self.websocket = task.protocol == "ws"
        self.epoll = select.epoll()
        self.tally = Tally(row)
        self.opening = opening
        self.flights = Flights(task, self.epoll, opening, context, TURN.given)
        self.held = HeldSet(
            (task.share if task.visits is None else task.concurrency) + 1024,
            task.family,
            websocket=self.websocket,
            longpoll=task.protocol == "http" and task.http_mode == "longpoll",
            tls=task.tls is not None,
            brief=task.visits is not None,
        )
        self.pings = Pings(self.held, self._drop, task.ping_s, task.timeout_s)
        self.backoff = Backoff(task.reconnect_attempts)
        self.goal = Goal(task, row, time.monotonic())
        self.last_tick = self.next_tick = time.monotonic()
        self.ramping = True
        self.checking = False
        self.unread = 0  # connections that may have something to report that came before the check
        self.reborn: dict[int, tuple[int, float]] = {}  # reconnected: fd -> (attempt, when)
        self.arrived = 0.0  # when epoll told what this turn reads
        self.came = 0  # how many events it told of then
        self.answers = Answers(
            self.flights, opening, self.held, self.tally, otherwise=self._advance, failed=self._failed
        )
        self.part: Part  # of those that run in this process
        self.quitting = False

    def run(self) -> None:
        with TURN:
            self.part = TOGETHER.join(self.task.concurrency)
            try:
                self._run()
            finally:
                self.part.leave()

    def _run(self) -> None:
        self.control.setblocking(False)
        control_fd = self.control.fileno()
        self.epoll.register(control_fd, select.EPOLLIN)
        self.row[counters.BEGAN_NS] = self.row[counters.TICKED_NS] = time.monotonic_ns()
        state, flying, asked = self.held.state, self.flights.by_fd, self.flights.asked
        full, since = 0, 0.0
        while not self.quitting:
            now = time.monotonic()
            self._open_some(now)
            if self.held.messages is not None:
                self._talk(self.held.messages)
            self._publish()
            ready = self._events()
            for fd, _ in self.answers.read_together(ready, self.arrived):
                if fd == control_fd:
                    self._obey()
                elif state[fd] == IN_FLIGHT:
                    if fd in asked:
                        self._answered(fd, asked.pop(fd))
                    else:
                        self._advance(fd, flying[fd])
                elif state[fd] != FREE:
                    try:
                        self.held.readable(fd)
                    except Lost as lost:
                        self._drop(fd, lost.cause, lost.detail)
            self.tally.count_handshakes()
            all_read = self.came < EVENTS_PER_TURN
            self.unread = 0 if all_read else self.unread - self.came
            # Nobody is too late whose answer lies here unread: none does that came before `since`. epoll goes
            # round, so that after so many full turns each had its own.
            since = now if all_read or not full else since
            full = 0 if all_read else full + 1
            if now >= self.next_tick and (
                all_read or full * EVENTS_PER_TURN > self.held.count + len(self.flights)
            ):
                full = 0
                self._tick(since)
        self._close_all()

    def _events(self) -> Sequence[tuple[int, int]]:
        batches, now, to_do = self.flights.batches, time.monotonic(), False
        until = now + self._patience()
        self.part.tell(len(self.flights))
        TURN.give()
        try:
            while not to_do:
                patience_s = batches.patience_s(now, until - now)
                came = self.epoll.poll(patience_s, EVENTS_PER_TURN)
                self.arrived = now = time.monotonic()
                ready, to_do = batches.told(came, now)
        finally:
            TURN.take()
        self.came = len(came)
        return ready

    def _open_some(self, now: float) -> None:
        budget = self._room()
        attempts: list[int] = []
        while len(attempts) < budget and (attempt := self.backoff.due(now)) is not None:
            self.tally.reconnect_attempts += 1
            attempts.append(attempt)
        firsts = self.goal.due(budget - len(attempts), now)
        self.tally.started += firsts
        attempts += [0] * firsts
        if not attempts:
            return
        state, TOGETHER.opened_at = self.held.state, now
        self.part.tell(len(self.flights) + len(attempts))  # before they are flights
        begun, failed = self.flights.open(attempts, paced=bool(self.goal.interval_s))
        for fd in begun:
            state[fd] = IN_FLIGHT
        for each in failed:
            self._failed(*each)

    def _room(self) -> int:
        """How many may begin in this turn. Without a rate, none until there is room for a burst."""
        most = self._most()
        room = max(0, min(OPENS_PER_TURN, most - self._under_way()))
        return room if self.goal.interval_s or room >= self._least(most) else 0

    def _most(self) -> int:
        """How many may be under way at once."""
        return TOGETHER.most

    def _under_way(self) -> int:
        """How many of these there are."""
        self.part.tell(len(self.flights))
        return TOGETHER.under_way

    def _least(self, most: int) -> int:
        """A whole burst. Where there was no room for one in a while, as answers do not come, a few."""
        waited_s = time.monotonic() - TOGETHER.opened_at
        return max(1, min(OPENS_PER_TURN, most // (4 if waited_s < TICK_S else 16)))

    def _answered(self, fd: int, asked: Asked) -> None:
        self.answers.read(fd, asked, self.arrived)

    def _advance(self, fd: int, flight: Flight, data: bytes | None = None) -> None:
        try:
            leftover = self.flights.advance(flight, data)
        except Refusal as refusal:
            self.held.state[fd] = FREE
            self._failed(flight.attempt, refusal)
            return
        if leftover is None:
            return
        self.tally.took_us.append(int((self.arrived - flight.began) * 1e6))
        if flight.attempt:
            self.tally.reconnected += 1
            self.reborn[fd] = (flight.attempt, time.monotonic())
        else:
            self.tally.established += 1
        try:
            self.held.add(flight.sock, leftover, flight.reader if self.opening.stays_open else None)
        except Lost as lost:
            self._drop(fd, lost.cause, lost.detail)
        else:
            if flight.late:
                self._drop(fd, *cause_of(flight.late))

    def _failed(self, attempt: int, refusal: Refusal) -> None:
        if attempt:
            self._try_again(attempt)
        else:
            self.tally.failure(refusal.cause, refusal.detail)

    def _drop(self, fd: int, cause: str, detail: str) -> None:
        self.held.close(fd)
        self.tally.drop(cause, detail)
        if self.backoff.attempts:
            now = time.monotonic()
            attempt, since = self.reborn.pop(fd, (0, now))
            self._try_again(attempt if now - since < RECOVERED_S else 0)

    def _try_again(self, attempts_made: int) -> None:
        if not self.backoff.wait(attempts_made, time.monotonic()):
            self.tally.given_up += 1

    def _tick(self, now: float) -> None:
        elapsed_s, self.last_tick, self.next_tick = now - self.last_tick, now, now + TICK_S
        self.row[counters.TICKED_NS] = time.monotonic_ns()
        self.answers.read_older(max(now, self.arrived) - min(2 * TICK_S, self.task.timeout_s))
        self.tally.count_handshakes()
        self.tally.publish_handshakes()
        for flight in self.flights.overdue(now - self.task.timeout_s):
            self.held.state[flight.fd] = FREE
            self._failed(flight.attempt, self.flights.give_up(flight))
        for fd, lost in self.held.messages.tick(now) if self.held.messages is not None else ():
            self._drop(fd, lost.cause, lost.detail)
        if self.checking:
            self._check(now)
        elif self.pings.tick(now, elapsed_s):
            self.next_tick = now

    def _check(self, now: float) -> None:
        """The end of the hold: every WebSocket is pinged, and what does not answer in time is not alive.

        For the other protocols, what the kernel has to say (end of file, reset) was read by this turn.
        """
        answered = self.pings.check(now) if self.websocket else self.unread <= 0
        if answered is None:
            self.next_tick = now
        if answered:
            self.checking = False
            self.tally.publish_handshakes()
            self._publish()
            self._tell("checked", self.tally.failure_details, self.tally.drop_details)

    def _patience(self) -> float:
        """How long the loop may sleep: until the next thing that is due without an event."""
        now = time.monotonic()
        pinging = self.task.ping_s and self.held.count
        messages = self.held.messages
        if messages is not None and messages.ready:
            return 0.0
        timed = self.flights or len(self.backoff) or self.checking or pinging or messages is not None
        wake = self.next_tick if timed else max(now, self.next_tick) + 1
        more = bool(self.goal)
        if more and self._room():
            wake = min(wake, self.goal.next_at)
        elif more and TOGETHER.workers > 1:
            wake = min(wake, now + TICK_S)  # the others may have made room by then
        return max(0.0, wake - now)

    def _obey(self) -> None:
        try:
            data = self.control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        command, *told = marshal.loads(data) if data else ("abandoned",)
        if command in ("stop", "check"):
            self.goal.stop()
        if command == "check":
            self.backoff = Backoff(0)
            self.pings.begin_check()
            self.checking, self.unread = True, self.held.count + len(self.flights) + 1
            self.next_tick = time.monotonic()  # in the next turn: the time of this one may be a second old
        elif command == "goal":
            number, *pace = told
            self.goal.raise_to(number, time.monotonic(), *pace)
            self.ramping, self.row[counters.RAMPED_NS] = True, 0
        elif command == "message":
            self._begin_messages(*told)
        elif command in ("quit", "abandoned"):
            self.quitting = True

    def _begin_messages(self, payload: bytes | None) -> None:
        """One on each held connection. None: the server sends them by itself."""
        from connprobe.engine.messages import Messages
        from connprobe.engine.talk import talk_for

        earlier = self.held.messages
        assert earlier is None or isinstance(earlier, Messages)
        self.held.messages = Messages(
            self.held,
            self.epoll,
            None if payload is None else talk_for(self.task, self.opening, payload),
            most=self.task.concurrency,
            timeout_s=self.task.timeout_s,
            tally=self.tally,
            earlier=earlier,
        )

    def _talk(self, messages: Any) -> None:
        for fd, lost in messages.send_some():
            self._drop(fd, lost.cause, lost.detail)
        if messages.over and not messages.told:
            messages.told = True
            self.tally.publish_messages()
            self._publish()
            self._tell("messaged", self.tally.failure_details, self.tally.drop_details)
        if messages.over and not messages.owed:
            self.held.messages = None

    def _tell(self, *message: Any) -> None:
        self.control.setblocking(True)
        try:
            self.control.send(marshal.dumps(message))
        except OSError:  # nobody listens any more; the end of file on this socket says so next
            return
        finally:
            self.control.setblocking(False)

    def _publish(self) -> None:
        row, held = self.row, self.held
        row[counters.HELD] = held.count  # before ESTABLISHED: who reads that all are, reads them held
        self.tally.publish()
        row[counters.IN_FLIGHT] = len(self.flights)
        row[counters.RESUMED] = self.flights.resumed
        row[counters.RING_OPENED] = self.flights.bursts.opened
        row[counters.PINGS] = held.pings
        row[counters.PONGS] = held.pongs
        row[counters.WAITING] = len(self.backoff)
        row[counters.BYTES_READ] = held.bytes_read
        if self.ramping and self._settled():
            self.ramping = False
            self.flights.bursts.rest()
            self.tally.publish_handshakes()
            row[counters.RAMPED_NS] = self._settled_ns()

    def _settled(self) -> bool:
        """Nothing of what was asked for is still to come."""
        return self.goal.is_reached(self.tally.established + self.tally.failed)

    def _settled_ns(self) -> int:
        """When that came true, by CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def _close_all(self) -> None:
        self.answers.read_older(time.monotonic())
        self.tally.count_handshakes()
        self.tally.publish_handshakes()
        self.tally.publish_messages()
        self._publish()  # what was lost in this turn is counted as dropped already: the last word adds up
        self._tell("ended", self.tally.failure_details, self.tally.drop_details)
        self.epoll.close()
        self.flights.close()
        for fd in [fd for fd, state in enumerate(self.held.state) if state > IN_FLIGHT]:
            self.held.leave(fd)
            self.held.close(fd)


def prepare(first: tuple[Any, ...]) -> tuple[Opening, Any]:
    """What all workers have in common: how connections are opened, and the TLS context or None."""
    task = Task(*first)
    if task.bursts:  # here, before the forks: its pages are shared, and no ramp begins by loading it
        import connprobe.engine.ring  # noqa: F401
    if task.tls is None:
        return opening_for(task), None
    from connprobe.engine.tls import client_context

    return opening_for(task), client_context(TlsTask(*task.tls), task.protocol)


def run(
    values: tuple[Any, ...], row: memoryview, control: socket.socket, shared: tuple[Opening, Any]
) -> None:
    worker_for(Task(*values), row, control, *shared).run()


def worker_for(task: Task, row: memoryview, control: socket.socket, opening: Opening, context: Any) -> Worker:
    if task.visits is None:
        return Worker(task, row, control, opening, context)
    from connprobe.engine.visitor import Visitor

    return Visitor(task, row, control, opening, context)
