"""io_uring: many system calls in one, from Python, without a library.

Only for what is done at once: nothing stays in a ring between two calls of its owner.
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
from collections.abc import Iterable, Sequence
from itertools import repeat

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # system calls
_SUBMIT_ALL, _COOP_TASKRUN, _SINGLE_ISSUER = 1 << 7, 1 << 8, 1 << 12
_GETEVENTS, _REGISTER_PROBE = 1, 8
_ENTRIES_AT = 0x10000000
_ENTRY = struct.Struct("=BBHiQQIIQHHiQQ")
_COMPLETION = struct.Struct("=QiI")  # user_data, result, flags
COMPLETION_BYTES = _COMPLETION.size
SKIP_SUCCESS = 1 << 6
CANCEL, CONNECT, SEND, RECV, EPOLL_CTL, SOCKET, COMMAND, BIND = 14, 16, 26, 27, 29, 45, 46, 56
EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN, EPOLLONESHOT = 1, 3, 1, 1 << 30
WORDS, FD, OFFSET, LENGTH = 16, 1, 2, 6  # of an entry, in 32 bits
EVENT_WORDS, EVENT_FD = (3, 1) if os.uname().machine == "x86_64" else (4, 2)  # struct epoll_event
# Here, since enumerations do it: in each worker that code would dirty 100 kB, and a ctypes array as much.
AT_ONCE = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # of SEND and RECV: nothing is left to wait for
_U32, _HIGHEST = 0xFFFFFFFF, 0x7FFFFFFF
Range = tuple[int, int]  # of entries: (the first, how many)

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class Uring:
    """A ring with `memory` for what its entries point to. `base`: the address of that.

    latest: the operation it needs that came last. Raises OSError where the kernel has no io_uring, forbids
    it, or has too little of it.
    """

    def __init__(self, entries: int, memory: int, latest: int) -> None:
        if sys.byteorder != "little":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        # Not of the heap, which never gives back what others were put on top of.
        self.memory = mmap.mmap(-1, memory)
        self.base = ctypes.addressof(
            ctypes.c_char.from_buffer(self.memory)
        )  # which stays: nothing resizes it
        self._reads = (-1, -1)  # what the entries of `prepare_reads` are prepared for
        self._usual = b""  # their completions, where as much as is asked for is there of all
        self._broken = False
        parameters = bytearray(120)  # struct io_uring_params
        struct.pack_into("=III", parameters, 0, 0, 0, _SUBMIT_ALL | _COOP_TASKRUN | _SINGLE_ISSUER)
        self._fd = _called(_SETUP, entries, _pointer(parameters))
        try:
            self._probe(latest)
            self._map(parameters)
        except BaseException:
            os.close(self._fd)
            raise

    def _probe(self, latest: int) -> None:
        answer = bytearray(16 + 256 * 8)  # struct io_uring_probe
        _called(_REGISTER, self._fd, _REGISTER_PROBE, _pointer(answer), 256)
        if answer[0] < latest or not answer[16 + 8 * latest + 2] & 1:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _map(self, parameters: bytearray) -> None:
        entries, completions = struct.unpack_from("=II", parameters)
        _, tail, _, _, _, _, order = struct.unpack_from("=7I", parameters, 40)  # struct io_sqring_offsets
        head, come, _, _, _, completed = struct.unpack_from("=6I", parameters, 80)  # struct io_cqring_offsets
        self._queues = mmap.mmap(
            self._fd, max(order + entries * 4, completed + completions * COMPLETION_BYTES)
        )
        self._entries = mmap.mmap(self._fd, entries * _ENTRY.size, offset=_ENTRIES_AT)
        self._words = memoryview(self._queues).cast("I")
        self.fields = memoryview(self._entries).cast("I")
        self._order = self._words[order // 4 : order // 4 + entries]
        self._every = memoryview(array("I", range(entries)))
        self._tail_at, self._tail, self._mask = tail // 4, 0, entries - 1
        self._head_at, self._come_at, self._head = head // 4, come // 4, 0
        self._its_mask, self._completed_at = completions - 1, completed

    def close(self) -> None:
        os.close(self._fd)

    def write(
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
        """An entry; data: its user_data."""
        _ENTRY.pack_into(
            self._entries, entry * _ENTRY.size,
            opcode, flags, 0, fd, offset, address, length, operation, data, 0, 0, option_bytes, option, 0,
        )  # fmt: skip

    def submit(self, *ranges: Range) -> None:
        """These entries. What needs no waiting is done, and its completion there, when this returns."""
        if self._broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        end, left = self._mask + 1, 0
        for first, number in ranges:
            at, order = self._tail & self._mask, self._every[first : first + number]
            if at + number <= end:
                self._order[at : at + number] = order
            else:
                self._order[at:], self._order[: at + number - end] = order[: end - at], order[end - at :]
            self._tail += number
            left += number
        self._words[self._tail_at] = self._tail & _U32
        while left:
            left -= _called(_ENTER, self._fd, left, 0, 0, None, 0)

    def come(self) -> bytes:
        """The completions since the last call, one behind the other: see `parsed`, and `completions`."""
        first, number = self._head & self._its_mask, (self._words[self._come_at] - self._head) & _U32
        begin, size = self._completed_at + first * COMPLETION_BYTES, number * COMPLETION_BYTES
        end = self._completed_at + (self._its_mask + 1) * COMPLETION_BYTES
        come = self._queues[begin : min(end, begin + size)]
        if begin + size > end:
            come += self._queues[self._completed_at : self._completed_at + begin + size - end]
        self._head += number
        self._words[self._head_at] = self._head & _U32
        return come

    def wait(self) -> None:
        """Until there is a completion that was not given yet."""
        _called(_ENTER, self._fd, 0, 1, _GETEVENTS, None, 0)

    def done(self, *ranges: Range) -> bytes:
        """Submits entries that complete one by one, and waits for all.

        Where the ring fails on the way, those that were done by then: the next call says so.
        """
        come, size = b"", sum(number for _, number in ranges) * COMPLETION_BYTES
        try:
            self.submit(*ranges)
            come = self.come()
            while len(come) < size:
                self.wait()
                come += self.come()
        except OSError:
            if self._broken:
                raise
            self._broken = True
            come += self.come()
        return come

    def read_at_once(
        self, fds: Sequence[int], length: int, *, entries: int, most: int, place: int
    ) -> tuple[list[int], bytes]:
        """(bytes read from each, or -errno; all of it, that of each from its index times `length` on).

        length: no more is read of one. EAGAIN: nothing was there. entries: the first of `most` that are meant
        for this, place: where in the memory there is room.
        """
        usual, number = self.prepare_reads(fds, length, entries=entries, most=most, place=place), len(fds)
        come = self.done((entries, number))
        sizes = [length] * number
        if come != usual:
            sizes = [-errno.EAGAIN] * number
            for slot, size in parsed(come):
                sizes[slot] = size
        return sizes, self.memory[place : place + number * length]

    def prepare_reads(self, fds: Sequence[int], length: int, *, entries: int, most: int, place: int) -> bytes:
        """As of `read_at_once`; user_data: the index. Gives the completions if that much is there of all."""
        if self._reads != (length, place):
            self._reads = length, place
            for slot in range(most):
                at = self.base + place + slot * length
                self.write(entries + slot, slot, opcode=RECV, address=at, length=length, operation=AT_ONCE)
            self._usual = completions(range(most), repeat(length))
        begin, end = entries * WORDS, (entries + len(fds)) * WORDS
        self.fields[begin + FD : end : WORDS] = array("I", fds)
        return self._usual[: len(fds) * COMPLETION_BYTES]

    def spoilt(self) -> None:
        """The entries of `prepare_reads` were used for something else."""
        self._reads = (-1, -1)


def completions(data: Iterable[int], results: Iterable[int]) -> bytes:
    """What `come` gives of these: the user_data of each, and its result."""
    return b"".join(_COMPLETION.pack(each, result, 0) for each, result in zip(data, results, strict=False))


def parsed(come: bytes) -> list[tuple[int, int]]:
    """(user_data, result) of each."""
    words = memoryview(come)
    return list(zip(words.cast("Q")[::2].tolist(), words.cast("i")[2::4].tolist(), strict=True))


def descriptors_of(come: bytes, data: "array[int]") -> "array[int] | None":
    """The results of what `come` gave, in its order: array("I"), as entries take them.

    None: some are errors, or their user_data is not `data`, of array("Q").
    """
    results = array("I", come)[2::4]
    return results if array("Q", come)[::2] == data and max(results) <= _HIGHEST else None


def _pointer(buffer: bytearray) -> object:
    return ctypes.byref(ctypes.c_char.from_buffer(buffer))


def _called(number: int, *arguments: object) -> int:
    """Raises OSError."""
    while (result := _syscall(number, *arguments)) < 0:
        if (code := ctypes.get_errno()) != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return int(result)
