"""Answers read the short way: compared with one that was judged before, many at once where possible."""

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from connprobe.engine.batches import Batch, Event
from connprobe.engine.bursts import LEAST, MOST
from connprobe.engine.failure import Refusal, cause_of
from connprobe.engine.flights import ANSWER_BYTES, Asked, Flight, Flights
from connprobe.engine.held import FREE, HeldSet
from connprobe.engine.opening import Opening
from connprobe.engine.tally import Tally


class Answers:
    """Those of a worker, each of a connection that `Flights.asked` knows.

    otherwise: takes over a flight whose answer is to be parsed, with what was read of it.
    failed: is told of a first attempt that could not be read at all.
    """

    def __init__(
        self,
        flights: Flights,
        opening: Opening,
        held: HeldSet,
        tally: Tally,
        *,
        otherwise: Callable[[int, Flight, bytes], None],
        failed: Callable[[int, Refusal], None],
    ) -> None:
        self._flights, self._opening, self._held, self._tally = flights, opening, held, tally
        self._otherwise, self._failed = otherwise, failed
        self._known: tuple[bytes, bytes] | None = None  # the opening's, whose answer is as long as is read
        self._most_bytes = ANSWER_BYTES
        self._arrived = 0.0  # when epoll told what is being read

    def read_together(self, ready: Sequence[Event], arrived: float) -> Sequence[Event]:
        """Many that are as one before, at once. Returns the events that are not of these."""
        for batch in self._flights.batches.due(arrived):
            # The wait for our turn is nobody's time, unless some of these came in the course of it.
            self._arrived = time.monotonic() if batch.awaited else arrived
            self._read_batch(batch)
        self._arrived = arrived
        asked = self._flights.asked
        if self._opening.known is None or not self._opening.may_be_followed or len(ready) < LEAST:
            return ready
        together = [fd for fd, _ in ready if fd in asked]
        if len(together) < LEAST:
            return ready
        rest = [event for event in ready if event[0] not in asked] if len(together) < len(ready) else []
        length = self._opening.known_bytes
        for start in range(0, len(together), MOST):
            if not self._flights.bursts.reads(length):
                return rest + [event for event in ready if event[0] in asked]
            fds = together[start : start + MOST]
            self._read_burst(fds, list(map(asked.pop, fds)), length)
        return rest

    def read_older(self, before: float) -> None:
        """Batches that began before that time. Of what has no answer yet epoll tells from now on."""
        self._arrived = time.monotonic()
        for batch in [batch for batch in self._flights.batches.by_age if batch.began < before]:
            self._read_batch(batch)

    def _read_batch(self, batch: Batch) -> None:
        flights, fds, number = self._flights, batch.fds, len(batch.fds)
        flights.batches.take(batch)
        # What is known may be longer by now than when they were opened.
        length = self._opening.known_bytes
        sizes, data, watched = flights.read_and_watch(fds, length)
        expected = self._opening.expected(batch.first, number)
        if self._all_alike(data, expected, sizes, length) and not any(watched):
            self._tally.handshakes(int((self._arrived - batch.began) * 1e6), number)
            self._tally.established += number
            self._held.take_all(fds)
            return
        for index, (fd, each, size, error) in enumerate(zip(fds, expected, sizes, watched, strict=True)):
            asked = None, each, batch.began
            if error:
                self._unread(fd, asked, -error)
            elif size == -errno.EAGAIN:
                flights.asked[fd] = asked
            elif size < 0:
                self._unread(fd, asked, -size)
            else:
                self._judge(fd, asked, data[index * length : index * length + size], length)

    def _all_alike(self, data: bytes, expected: Sequence[bytes], sizes: list[int], length: int) -> bool:
        before, after = self._opening.known or (b"", b"")
        alike = data == before + (after + before).join(expected) + after
        return alike and sizes.count(length) == len(sizes)

    def _read_burst(self, fds: list[int], asked: list[Asked], length: int) -> None:
        read = self._flights.bursts.read(fds, length)
        if read is None:
            self._flights.asked.update(zip(fds, asked, strict=True))
            return
        sizes, data = read
        socks, expected, began = zip(*asked, strict=True)
        if self._all_alike(data, expected, sizes, length):
            for since, times in Counter(began).items():
                self._tally.handshakes(int((self._arrived - since) * 1e6), times)
            self._tally.established += len(fds)
            for sock in filter(None, socks):
                sock.detach()
            self._held.take_all(fds)
            return
        for index, (fd, each, size) in enumerate(zip(fds, asked, sizes, strict=True)):
            if size < 0:
                self._unread(fd, each, -size)
            else:
                self._judge(fd, each, data[index * length : index * length + size], length)

    def read(self, fd: int, asked: Asked, arrived: float) -> None:
        """One alone."""
        self._arrived = arrived
        known = self._opening.known
        if known is not self._known:
            assert known is not None
            self._known = known
            # A little more, to see that nothing follows; much more would cost an allocation of that size.
            self._most_bytes = self._opening.known_bytes + 16
        try:
            data = os.read(fd, self._most_bytes)
        except OSError as error:
            self._unread(fd, asked, error.errno or 0)
        else:
            self._judge(fd, asked, data, self._most_bytes)

    def _unread(self, fd: int, asked: Asked, number: int) -> None:
        if number == errno.EAGAIN:
            self._flights.long_way(fd, asked)
            return
        self._held.state[fd] = FREE
        self._flights.end(fd, asked)
        self._failed(0, Refusal(*cause_of(number)))

    def _judge(self, fd: int, asked: Asked, data: bytes, most: int) -> None:
        """most: as much as was read at most."""
        sock, expected, began = asked
        known = self._opening.known
        if known is not None and data == known[0] + expected + known[1]:
            self._tally.took_us.append(int((self._arrived - began) * 1e6))
            self._tally.established += 1
            self._held.take(fd, sock)
            return
        if len(data) == most < ANSWER_BYTES:  # this one is longer, and the next may be
            self._most_bytes = ANSWER_BYTES
            with suppress(OSError):  # which the next read will meet again, or the check
                data += os.read(fd, ANSWER_BYTES - len(data))
        self._otherwise(fd, self._flights.long_way(fd, asked), data)
