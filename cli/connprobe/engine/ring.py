"""A burst of connections in two system calls, where the kernel has io_uring.

Between two system calls a server that was woken may take this CPU: four times as often when each step is one
(benchmarks/README.md). Nothing stays in the ring between two bursts: what has not come to its end at once is
taken back, for epoll to go on with. Nor are the steps of a connection linked: they are taken in order as long
as none has to wait, and links cost 7 us a connection.

Source of the layout and the numbers: include/uapi/linux/io_uring.h. BIND is the latest of them (6.11).
"""

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import chain

from connprobe.engine.bursts import MOST
from connprobe.engine.sources import IP_BIND_ADDRESS_NO_PORT

LONGEST_REQUEST = 4096
LEAST_ROOM = 256  # of an answer

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # system calls
_SUBMIT_ALL, _COOP_TASKRUN, _SINGLE_ISSUER = 1 << 7, 1 << 8, 1 << 12
_GETEVENTS, _REGISTER_PROBE = 1, 8
_ENTRIES_AT = 0x10000000
_SKIP_SUCCESS = 1 << 6
_CANCEL, _CONNECT, _SEND, _RECV, _EPOLL_CTL, _SOCKET, _COMMAND, _BIND = 14, 16, 26, 27, 29, 45, 46, 56
_SETSOCKOPT = 3  # a _COMMAND of sockets
_EPOLL_CTL_ADD, _EPOLLIN = 1, 1
_STEPS = 6  # of a connection, where it is bound
_OTHERS_AT, _ENTRIES = MOST * (_STEPS + 1), MOST * (_STEPS + 2)  # others: cancels, or reads
_ENTRY = struct.Struct("=BBHiQQIIQHHiQQ")
_WORDS, _FD, _OFFSET = 16, 1, 2  # of an entry, in 32 bits
_EVENT_WORDS, _EVENT_FD = (3, 1) if os.uname().machine == "x86_64" else (4, 2)  # struct epoll_event
_SOCKADDR_BYTES = 28
_YES, _NO, _SOURCES_AT = 32, 36, 40  # in our memory; the target is at 0
_EVENTS_AT = _SOURCES_AT + MOST * _SOCKADDR_BYTES
_REQUESTS_AT = _EVENTS_AT + MOST * _EVENT_WORDS * 4
# user_data: what was done, and for which connection of the burst. _FAILED: a step that completes only then.
_FAILED, _CONNECTED, _SENT, _WATCHED, _MADE, _CANCELLED, _KINDS = (MOST * kind for kind in range(7))
_UNDER_WAY = 1
_NO_ERROR = (0, -errno.ECANCELED, -errno.ECONNABORTED)  # of a connect
# Here, since enumerations do it: in each worker that code would dirty 100 kB, and a ctypes array as much.
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_KIND = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
_SOL_IP, _TCP, _TCP_QUICKACK = int(socket.SOL_IP), int(socket.IPPROTO_TCP), int(socket.TCP_QUICKACK)
_U32 = 0xFFFFFFFF

Come = tuple[list[int], list[int]]  # user_data and results of completions, in the order of these

_libc = ctypes.CDLL(None, use_errno=True)
_syscall, _trim = _libc.syscall, getattr(_libc, "malloc_trim", None)  # of glibc alone
_syscall.restype = ctypes.c_long


class Ring:
    """For connections to one target that all begin with a request of the same length.

    binds: each is bound to a source address. Raises OSError where the kernel has no io_uring, forbids it, or
    has too little of it.
    """

    def __init__(self, family: int, target: bytes, request_bytes: int, epoll_fd: int, *, binds: bool) -> None:
        if request_bytes > LONGEST_REQUEST or sys.byteorder != "little":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self._length, self._binds = request_bytes, binds
        self.room = max(request_bytes, LEAST_ROOM)  # of an answer that `read` reads
        self._read_bytes = 0  # of what `read` is prepared for
        self._usual: list[int] = []
        self.late: dict[int, int] = {}  # of the last burst: descriptor -> errno that its connect took
        self._steps = _STEPS if binds else _STEPS - 2
        # Not of the heap, which never gives back what others were put on top of.
        self._memory = mmap.mmap(-1, _REQUESTS_AT + MOST * self.room + 3 & ~3)
        self._bytes = memoryview(self._memory)
        self._bytes[: len(target)] = target
        self._bytes[_YES : _YES + 8] = struct.pack("=ii", 1, 0)
        self._events = self._bytes.cast("I")[_EVENTS_AT // 4 : _REQUESTS_AT // 4]
        self._events[::_EVENT_WORDS] = array("I", [_EPOLLIN] * MOST)
        parameters = bytearray(120)  # struct io_uring_params
        struct.pack_into("=III", parameters, 0, 0, 0, _SUBMIT_ALL | _COOP_TASKRUN | _SINGLE_ISSUER)
        self._fd = _called(_SETUP, _ENTRIES, _pointer(parameters))
        try:
            self._probe()
            self._map(parameters)
        except BaseException:
            os.close(self._fd)
            raise
        self._prepare(family, epoll_fd)

    def _probe(self) -> None:
        answer = bytearray(16 + 256 * 8)  # struct io_uring_probe
        _called(_REGISTER, self._fd, _REGISTER_PROBE, _pointer(answer), 256)
        if answer[0] < _BIND or not answer[16 + 8 * _BIND + 2] & 1:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _map(self, parameters: bytearray) -> None:
        entries, completions = struct.unpack_from("=II", parameters)
        _, tail, _, _, _, _, order = struct.unpack_from("=7I", parameters, 40)  # struct io_sqring_offsets
        head, come, _, _, _, completed = struct.unpack_from("=6I", parameters, 80)  # struct io_cqring_offsets
        self._queues = mmap.mmap(self._fd, max(order + entries * 4, completed + completions * 16))
        self._entries = mmap.mmap(self._fd, entries * _ENTRY.size, offset=_ENTRIES_AT)
        self._words = memoryview(self._queues).cast("I")
        self._fields = memoryview(self._entries).cast("I")
        self._order = self._words[order // 4 : order // 4 + entries]
        self._tail_at, self._tail, self._mask = tail // 4, 0, entries - 1
        self._head_at, self._come_at, self._head = head // 4, come // 4, 0
        self._its_mask = completions - 1
        ring = memoryview(self._queues)[completed : completed + completions * 16]  # of struct io_uring_cqe
        self._data, self._answers = ring.cast("Q"), ring.cast("i")

    def _prepare(self, family: int, epoll_fd: int) -> None:
        """What is the same in every burst."""
        # Which stays: nothing resizes it.
        base = self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        size = 16 if family == socket.AF_INET else _SOCKADDR_BYTES
        for slot in range(MOST):
            at = slot * self._steps
            if self._binds:
                self._option(at, slot, _SOL_IP, IP_BIND_ADDRESS_NO_PORT, base + _YES)
                source = base + _SOURCES_AT + slot * _SOCKADDR_BYTES
                self._write(at + 1, slot, opcode=_BIND, flags=_SKIP_SUCCESS, address=source, offset=size)
                at += 2
            self._option(at, slot, _TCP, _TCP_QUICKACK, base + _NO)
            self._write(at + 1, _CONNECTED + slot, opcode=_CONNECT, address=base, offset=size)
            self._write(
                at + 2,
                _SENT + slot,
                opcode=_SEND,
                address=base + _REQUESTS_AT + slot * self._length,
                length=self._length,
                operation=_SEND_FLAGS,
            )
            event = base + _EVENTS_AT + slot * _EVENT_WORDS * 4
            self._write(
                at + 3, _WATCHED + slot, opcode=_EPOLL_CTL, fd=epoll_fd, address=event, length=_EPOLL_CTL_ADD
            )
            self._write(MOST * self._steps + slot, _MADE + slot, opcode=_SOCKET, fd=family, offset=_KIND)

    def _option(self, entry: int, slot: int, level: int, name: int, value: int) -> None:
        """setsockopt(2) of an int."""
        self._write(
            entry,
            slot,
            opcode=_COMMAND,
            flags=_SKIP_SUCCESS,
            offset=_SETSOCKOPT,
            address=level | name << 32,
            option_bytes=4,
            option=value,
        )

    def open(self, requests: bytes, sources: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """(descriptors, outcomes) of all, `MOST` at most. Descriptors are the caller's; -1: there is none.

        requests: one behind the other.
        outcome: bytes of the request that were sent, or -errno. EINPROGRESS: none yet. Unless it is another,
        epoll waits for input. sources: the sockaddr of each, empty where none is bound.
        Raises OSError when the ring itself fails: what was begun is closed.
        """
        number, size = len(sources), self._length
        self._submit(MOST * self._steps, number)
        data, made = come = self._come()
        if data != list(range(_MADE, _MADE + number)):
            made = self._results(number, number, come)[_MADE : _MADE + number]
        if min(made) < 0:
            slots = [slot for slot, fd in enumerate(made) if fd >= 0]
            requests = b"".join(requests[slot * size : (slot + 1) * size] for slot in slots)
            sources = [sources[slot] for slot in slots]
        fds = array("I", [fd for fd in made if fd >= 0])
        try:
            outcomes = self._speak(fds, requests, sources)
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        if len(fds) == number:
            return made, outcomes
        rest = iter(outcomes)
        return [max(fd, -1) for fd in made], [next(rest) if fd >= 0 else fd for fd in made]

    def read(self, fds: Sequence[int], length: int) -> tuple[list[int], bytes]:
        """(bytes that were read from each of `MOST` at most, or -errno; all of it, each one's from
        its index times `length` on). length: at most `room`; no more is read. EAGAIN: nothing was there.

        Where the requests were, of which none is under way any more. Raises OSError when the ring fails.
        """
        number = len(fds)
        if self._read_bytes != length:
            self._read_bytes = length
            for slot in range(MOST):
                place = self._base + _REQUESTS_AT + slot * length
                self._write(
                    _OTHERS_AT + slot,
                    slot,
                    opcode=_RECV,
                    address=place,
                    length=length,
                    operation=_SEND_FLAGS,
                )
        begin = _OTHERS_AT * _WORDS
        self._fields[begin + _FD : begin + number * _WORDS : _WORDS] = array("I", fds)
        self._submit(_OTHERS_AT, number)
        data, answers = self._come()
        while len(data) < number:
            _called(_ENTER, self._fd, 0, 1, _GETEVENTS, None, 0)
            more = self._come()
            data, answers = data + more[0], answers + more[1]
        if data != list(range(number)):
            answers = [answer for _, answer in sorted(zip(data, answers, strict=True))]
        return answers, self._memory[_REQUESTS_AT : _REQUESTS_AT + number * length]

    def close(self) -> None:
        os.close(self._fd)

    def _speak(self, fds: "array[int]", requests: bytes, sources: Sequence[bytes]) -> list[int]:
        number, size = len(fds), self._steps * _WORDS
        for step in range(self._steps - 1):
            self._fields[step * _WORDS + _FD : number * size : size] = fds
        self._fields[size - _WORDS + _OFFSET : number * size : size] = fds
        self._events[_EVENT_FD : number * _EVENT_WORDS : _EVENT_WORDS] = fds
        self._put(_REQUESTS_AT, requests)
        if self._binds:
            self._put(_SOURCES_AT, b"".join(sources))
        self._submit(0, number * self._steps)
        self.late = {}
        data, answers = come = self._come()
        if data == self._usual_order(number):
            sent, watched, connected = (
                answers[: 2 * number : 2],
                answers[1 : 2 * number : 2],
                answers[2 * number :],
            )
            if sent == [self._length] * number and not any(watched) and not any(connected):
                return sent
        results = self._results(3 * number, number, come)
        kinds = [results[kind : kind + number] for kind in (_FAILED, _CONNECTED, _SENT, _WATCHED)]
        self.late = {
            fd: -connected
            for fd, connected, sent in zip(fds, kinds[1], kinds[2], strict=True)
            if _is_late(connected, sent)
        }
        return [_outcome(*each) for each in zip(*kinds, strict=True)]

    def _usual_order(self, number: int) -> list[int]:
        """Of user_data, where all went well on loopback: connects come last, as each is asked for again."""
        if len(self._usual) != 3 * number:
            steps = zip(range(_SENT, _SENT + number), range(_WATCHED, _WATCHED + number), strict=True)
            self._usual = [*chain.from_iterable(steps), *range(_CONNECTED, _CONNECTED + number)]
        return self._usual

    def _put(self, at: int, values: bytes) -> None:
        self._memory[at : at + len(values)] = values

    def _results(self, completions: int, number: int, come: Come | None = None) -> list[int]:
        """Of `number` connections, by user_data. What is still under way is cancelled: that leaves TCP alone.

        The rest is waited for, or it would be taken for the next burst's: a kernel thread takes over an
        EPOLL_CTL while somebody reads our /proc/PID/fdinfo, which holds its lock.
        """
        results = [0] * _KINDS
        results[_CONNECTED : _CONNECTED + number] = [_UNDER_WAY] * number
        arrived = _sort(come or self._come(), results)
        if arrived < completions:
            connecting = [slot for slot in range(number) if results[_CONNECTED + slot] == _UNDER_WAY]
            self._read_bytes = 0
            for place, slot in enumerate(connecting):
                self._write(place + _OTHERS_AT, _CANCELLED + slot, opcode=_CANCEL, address=_CONNECTED + slot)
            self._submit(_OTHERS_AT, len(connecting))
            completions += len(connecting)
            while (arrived := arrived + _sort(self._come(), results)) < completions:
                _called(_ENTER, self._fd, 0, 1, _GETEVENTS, None, 0)
        return results

    def _come(self) -> Come:
        """The completions since the last call."""
        first, number = self._head & self._its_mask, (self._words[self._come_at] - self._head) & _U32
        self._head += number
        data: list[int] = []
        answers: list[int] = []
        for start, end in ((first, first + number), (0, first + number - self._its_mask - 1)):
            end = min(end, self._its_mask + 1)
            if start < end:
                data += self._data[2 * start : 2 * end : 2].tolist()
                answers += self._answers[4 * start + 2 : 4 * end : 4].tolist()
        self._words[self._head_at] = self._head & _U32
        return data, answers

    def _write(
        self,
        entry: int,
        data: int,
        *,
        opcode: int,
        flags: int = 0,
        fd: int = -1,
        offset: int = 0,
        address: int = 0,
        length: int = 0,
        operation: int = 0,
        option_bytes: int = 0,
        option: int = 0,
    ) -> None:
        _ENTRY.pack_into(
            self._entries, entry * _ENTRY.size,
            opcode, flags, 0, fd, offset, address, length, operation, data, 0, 0, option_bytes, option, 0,
        )  # fmt: skip

    def _submit(self, first: int, number: int) -> None:
        """What needs no waiting is done, and its completion there, when this returns."""
        at, end = self._tail & self._mask, self._mask + 1
        order = array("I", range(first, first + number))
        self._order[at : at + number] = order[: end - at]
        self._order[: max(0, at + number - end)] = order[end - at :]
        self._tail += number
        self._words[self._tail_at] = self._tail & _U32
        while number:
            number -= _called(_ENTER, self._fd, number, 0, 0, None, 0)


def trim_heap() -> None:
    """Free pages go back to the kernel: those between used ones too, which free(3) keeps."""
    if _trim is not None:
        _trim(0)


def _sort(come: Come, results: list[int]) -> int:
    """Into `results`, by user_data. How many there were of those that always come."""
    for at, result in zip(*come, strict=True):
        results[at] = result
    return sum(map(_CONNECTED.__le__, come[0]))


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


def _pointer(buffer: bytearray) -> object:
    return ctypes.byref(ctypes.c_char.from_buffer(buffer))


def _called(number: int, *arguments: object) -> int:
    """Raises OSError."""
    while (result := _syscall(number, *arguments)) < 0:
        if (code := ctypes.get_errno()) != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return int(result)
