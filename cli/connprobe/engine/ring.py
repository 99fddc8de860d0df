"""A burst of connections in two system calls, where the kernel has io_uring. One reads many answers.

Between two system calls a server that was woken may take this CPU: four times as often when each step is one
(benchmarks/README.md). Nothing stays in the ring between two bursts: what has not come to its end at once is
taken back, for epoll to go on with. Nor are the steps of a connection linked: they are taken in order as long
as none has to wait, and links cost 7 us a connection.
"""

import ctypes
import errno
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from itertools import repeat

from connprobe import uring
from connprobe.engine.bursts import MOST, UNTOLD, ReadAndWatched
from connprobe.engine.sources import IP_BIND_ADDRESS_NO_PORT
from connprobe.uring import (
    AT_ONCE,
    COMPLETION_BYTES,
    EVENT_FD,
    EVENT_WORDS,
    WORDS,
    Uring,
    completions,
    descriptors_of,
    parsed,
)

LONGEST_REQUEST = 4096
LEAST_ROOM = 256  # of an answer
MARKED = 32  # one of so many: where several processes answer, the first mark tells little of the others

_SETSOCKOPT = 3  # a COMMAND of sockets
_STEPS = 4  # of a connection, where it is bound
# Where which entries are. Others: cancels, or reads.
_MAKE_AT, _WATCH_AT, _OTHERS_AT, _ENTRIES = (MOST * (_STEPS + more) for more in range(4))
_ADD = array("I", [uring.EPOLL_CTL_ADD] * MOST)
_AGAIN = array("I", _ADD)  # where the last of each MARKED has been added
_AGAIN[::-MARKED] = array("I", [uring.EPOLL_CTL_MOD] * len(_AGAIN[::-MARKED]))
_INPUT = array("I", [uring.EPOLLIN] * MOST)
_INPUT_ONCE = array("I", [uring.EPOLLIN | uring.EPOLLONESHOT] * MOST)
_SOCKADDR_BYTES = 28
_YES, _SOURCES_AT = 32, 36  # in our memory; the target is at 0
_EVENTS_AT = _SOURCES_AT + MOST * _SOCKADDR_BYTES
_REQUESTS_AT = _EVENTS_AT + MOST * EVENT_WORDS * 4
# user_data: what was done, and for which connection of the burst. _FAILED: a step that completes only then,
# or a read.
_FAILED, _CONNECTED, _SENT, _MADE, _WATCHED, _CANCELLED, _KINDS = (MOST * kind for kind in range(7))
_UNDER_WAY = 1
_NO_ERROR = (0, -errno.ECANCELED, -errno.ECONNABORTED)  # of a connect
_KIND = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
_SOL_IP = int(socket.SOL_IP)

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone


class Ring(Uring):
    """For connections to one target that all begin with a request of the same length.

    binds: each is bound to a source address. Raises OSError where the kernel has no io_uring, forbids it, or
    has too little of it.
    """

    def __init__(self, family: int, target: bytes, request_bytes: int, epoll_fd: int, *, binds: bool) -> None:
        if request_bytes > LONGEST_REQUEST:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self._length, self._binds = request_bytes, binds
        self.room = max(request_bytes, LEAST_ROOM)  # of an answer that `read` reads
        # Of the last burst:
        self.late: dict[int, int] = {}  # descriptor -> errno that its connect took
        self.marks: Sequence[int] = ()  # descriptors
        self._steps = _STEPS if binds else _STEPS - 2
        super().__init__(_ENTRIES, _REQUESTS_AT + MOST * self.room + 3 & ~3, uring.BIND)
        words = memoryview(self.memory)
        words[: len(target)] = target
        words[_YES : _YES + 4] = struct.pack("=i", 1)
        self._events = words.cast("I")[_EVENTS_AT // 4 : _REQUESTS_AT // 4]
        self._prepare(family, epoll_fd)
        self._makings = array("Q", range(_MADE, _WATCHED))
        # Completions where all goes well on loopback: connects come last, as each is asked for again.
        self._sent = completions(range(_SENT, _MADE), repeat(request_bytes))
        self._connected = completions(range(_CONNECTED, _SENT), repeat(0))
        self._watched = completions(range(_WATCHED, _CANCELLED), repeat(0))
        self._spoke, self._spoke_of = b"", (0, 0)  # all of a burst, and how many (connections, watched)

    def _prepare(self, family: int, epoll_fd: int) -> None:
        """What is the same in every burst."""
        base = self.base
        size = 16 if family == socket.AF_INET else _SOCKADDR_BYTES
        for slot in range(MOST):
            at = slot * self._steps
            if self._binds:
                self.write(
                    at,
                    slot,
                    opcode=uring.COMMAND,
                    flags=uring.SKIP_SUCCESS,
                    offset=_SETSOCKOPT,
                    address=_SOL_IP | IP_BIND_ADDRESS_NO_PORT << 32,
                    option_bytes=4,
                    option=base + _YES,
                )
                source = base + _SOURCES_AT + slot * _SOCKADDR_BYTES
                self.write(
                    at + 1, slot, opcode=uring.BIND, flags=uring.SKIP_SUCCESS, address=source, offset=size
                )
                at += 2
            self.write(at, _CONNECTED + slot, opcode=uring.CONNECT, address=base, offset=size)
            self.write(
                at + 1,
                _SENT + slot,
                opcode=uring.SEND,
                address=base + _REQUESTS_AT + slot * self._length,
                length=self._length,
                operation=AT_ONCE,
            )
            event = base + _EVENTS_AT + slot * EVENT_WORDS * 4
            self.write(_WATCH_AT + slot, _WATCHED + slot, opcode=uring.EPOLL_CTL, fd=epoll_fd, address=event)
            self.write(_MAKE_AT + slot, _MADE + slot, opcode=uring.SOCKET, fd=family, offset=_KIND)

    def open(
        self, requests: bytes, sources: Sequence[bytes], *, mark: bool = False
    ) -> tuple[Sequence[int], list[int] | None]:
        """(descriptors, outcomes) of all, `MOST` at most. Descriptors are the caller's; -1: there is none.
        No outcomes: of each the whole request was sent.

        requests: one behind the other.
        outcome: bytes of the request that were sent, or -errno. EINPROGRESS: none yet. Unless it is another,
        epoll waits for input. sources: the sockaddr of each, empty where none is bound.
        mark: where all goes well, epoll waits for that of `marks` alone, one of some, and once: see
        `read_and_watch`.
        Raises OSError when the ring itself fails: what was begun is closed.
        """
        number, size = len(sources), self._length
        come = self._make(number)
        if (fds := descriptors_of(come, self._makings[:number])) is not None:
            return fds, self._spoken(fds, requests, sources, mark)
        made = [-errno.EIO] * number
        for at, fd in parsed(come):
            made[at - _MADE] = fd
        fds = array("I", [fd for fd in made if fd >= 0])
        if len(fds) < number:
            slots = [slot for slot, fd in enumerate(made) if fd >= 0]
            requests = b"".join(requests[slot * size : (slot + 1) * size] for slot in slots)
            sources = [sources[slot] for slot in slots]
        outcomes = self._spoken(fds, requests, sources, mark and len(fds) == number)
        if len(fds) == number:
            return made, outcomes
        rest = iter(outcomes or repeat(size))
        return [max(fd, -1) for fd in made], [next(rest) if fd >= 0 else fd for fd in made]

    def read(self, fds: Sequence[int], length: int) -> tuple[list[int], bytes]:
        """(bytes that were read from each of `MOST` at most, or -errno; all of it, each one's from
        its index times `length` on). length: at most `room`; no more is read. EAGAIN: nothing was there.

        Where the requests were, of which none is under way any more. Raises OSError when the ring fails.
        """
        return self.read_at_once(fds, length, entries=_OTHERS_AT, most=MOST, place=_REQUESTS_AT)

    def read_and_watch(self, fds: Sequence[int], length: int) -> ReadAndWatched:
        """Answers of a burst that was marked, as of `read`; and epoll waits for further input of all: of each
        0, or -errno. UNTOLD: the ring failed before that was known. Raises OSError when it failed earlier.

        Waited for to the end: a kernel thread takes over while somebody reads our /proc/PID/fdinfo, which
        holds the lock of the epoll.
        """
        number = len(fds)
        usual = self.prepare_reads(fds, length, entries=_OTHERS_AT, most=MOST, place=_REQUESTS_AT)
        self._prepare_watch(array("I", fds), _AGAIN[-number:], _INPUT)
        come = self.done((_OTHERS_AT, number), (_WATCH_AT, number))
        data = self.memory[_REQUESTS_AT : _REQUESTS_AT + number * length]
        if come == usual + self._watched[: number * COMPLETION_BYTES]:
            return [length] * number, data, [0] * number
        results = [-errno.EAGAIN] * MOST + [UNTOLD] * (_KINDS - MOST)
        _sort(come, results)
        return results[:number], data, results[_WATCHED : _WATCHED + number]

    def _prepare_watch(self, fds: "array[int]", operations: "array[int]", events: "array[int]") -> None:
        number, first, last = len(fds), _WATCH_AT * WORDS, (_WATCH_AT + len(fds)) * WORDS
        self._events[EVENT_FD : number * EVENT_WORDS : EVENT_WORDS] = fds
        self._events[: number * EVENT_WORDS : EVENT_WORDS] = events[:number]
        self.fields[first + uring.OFFSET : last : WORDS] = fds
        self.fields[first + uring.LENGTH : last : WORDS] = operations

    def _make(self, number: int) -> bytes:
        """The completions. Raises OSError when the ring fails: what was made is closed."""
        try:
            self.submit((_MAKE_AT, number))
        except OSError:
            for _, fd in parsed(self.come()):
                if fd >= 0:
                    os.close(fd)
            raise
        return self.come()

    def _spoken(
        self, fds: "array[int]", requests: bytes, sources: Sequence[bytes], mark: bool
    ) -> list[int] | None:
        """Outcomes as of `open`."""
        try:
            return self._speak(fds, requests, sources, mark)
        except OSError:
            for fd in fds:
                os.close(fd)
            raise

    def _speak(
        self, fds: "array[int]", requests: bytes, sources: Sequence[bytes], mark: bool
    ) -> list[int] | None:
        number, size = len(fds), self._steps * WORDS
        for step in range(self._steps):
            self.fields[step * WORDS + uring.FD : number * size : size] = fds
        self._put(_REQUESTS_AT, requests)
        if self._binds:
            self._put(_SOURCES_AT, b"".join(sources))
        told = fds[::-MARKED] if mark else fds
        self._prepare_watch(told, _ADD[: len(told)], _INPUT_ONCE if mark else _INPUT)
        self.submit((0, number * self._steps), (_WATCH_AT, len(told)))
        self.late, self.marks = {}, ()
        come = self.come()
        if come == self._usual_speech(number, len(told)):
            self.marks = told if mark else ()
            return None
        results = self._results(2 * number + len(told), number, come)
        failed, connected, sent = (results[kind : kind + number] for kind in (_FAILED, _CONNECTED, _SENT))
        watched = results[_WATCHED : _WATCHED + len(told)]
        if sent.count(self._length) == number and not (any(failed) or any(connected) or any(watched)):
            self.marks = told if mark else ()  # one was told of late
            return None
        if mark:
            watched = self._watch_all(fds, watched)
        self.late = {
            fd: -error for fd, error, size in zip(fds, connected, sent, strict=True) if _is_late(error, size)
        }
        return [_outcome(*each) for each in zip(failed, connected, sent, watched, strict=True)]

    def _usual_speech(self, number: int, watched: int) -> bytes:
        if self._spoke_of != (number, watched):
            size = number * COMPLETION_BYTES
            self._spoke = (
                self._sent[:size] + self._watched[: watched * COMPLETION_BYTES] + self._connected[:size]
            )
            self._spoke_of = number, watched
        return self._spoke

    def _watch_all(self, fds: "array[int]", marked: list[int]) -> list[int]:
        """Of a burst that was to be marked, and went wrong: of each 0, or -errno.

        Raises OSError when the ring fails.
        """
        number, operations = len(fds), _ADD[: len(fds)]
        added = [uring.EPOLL_CTL_ADD if error else uring.EPOLL_CTL_MOD for error in marked]
        operations[::-MARKED] = array("I", added)
        self._prepare_watch(fds, operations, _INPUT)
        come, results = self.done((_WATCH_AT, number)), [0] * _KINDS
        if len(come) < number * COMPLETION_BYTES:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        _sort(come, results)
        return results[_WATCHED : _WATCHED + number]

    def _put(self, at: int, values: bytes) -> None:
        self.memory[at : at + len(values)] = values

    def _results(self, expected: int, number: int, come: bytes) -> list[int]:
        """Of `number` connections, by user_data. What is still under way is cancelled: that leaves TCP alone.

        The rest is waited for, or it would be taken for the next burst's.
        """
        results = [0] * _KINDS
        results[_CONNECTED : _CONNECTED + number] = [_UNDER_WAY] * number
        arrived = _sort(come, results)
        if arrived < expected:
            connecting = [slot for slot in range(number) if results[_CONNECTED + slot] == _UNDER_WAY]
            if connecting:
                self.spoilt()
                for place, slot in enumerate(connecting):
                    self.write(
                        place + _OTHERS_AT, _CANCELLED + slot, opcode=uring.CANCEL, address=_CONNECTED + slot
                    )
                self.submit((_OTHERS_AT, len(connecting)))
                expected += len(connecting)
            while (arrived := arrived + _sort(self.come(), results)) < expected:
                self.wait()
        return results


def trim_heap() -> None:
    """Free pages go back to the kernel: those between used ones too, which free(3) keeps."""
    if _trim is not None:
        _trim(0)


def _sort(come: bytes, results: list[int]) -> int:
    """Into `results`, by user_data. How many there were of those that always come."""
    for at, result in (each := parsed(come)):
        results[at] = result
    return sum(at >= _CONNECTED for at, _ in each)


def _is_late(connected: int, sent: int) -> bool:
    """The request was sent, so it was connected; what its connect says was lost after that.

    A connect that had to wait asks for the socket's error when it is woken (io_connect), and so takes that of
    a reset which came behind the answer: nobody else will hear of it.
    """
    return sent > 0 and connected < 0 and connected not in _NO_ERROR


def _outcome(failed: int, connected: int, sent: int, watched: int) -> int:
    """By the first step that failed. The later ones were tried all the same, but for nothing."""
    if failed:
        return failed
    if connected not in _NO_ERROR and sent <= 0:
        return connected
    if sent < 0 and sent != -errno.EAGAIN:  # of a refusal it is the first to hear, connect then ECONNABORTED
        return sent
    return watched or (sent if sent > 0 else -errno.EINPROGRESS)
