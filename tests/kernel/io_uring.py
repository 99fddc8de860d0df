"""accept(2) by way of io_uring, which makes no system call of that name: io_uring(7), linux/io_uring.h."""

import ctypes
import errno
import mmap
import os
import socket
import struct
from types import TracebackType

import pytest

_SETUP, _ENTER = 425, 426  # on every architecture
_ACCEPT = 13  # IORING_OP_ACCEPT
_GET_EVENTS = 1
_ENTRY, _COMPLETION = 64, 16
_SQ_RING, _CQ_RING, _ENTRIES = 0, 0x8000000, 0x10000000


class AcceptRing:
    """A ring with room for one request at a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        parameters = ctypes.create_string_buffer(120)
        self._fd = self._libc.syscall(_SETUP, 1, parameters)
        if self._fd < 0:
            code = ctypes.get_errno()
            remedy = (
                "sysctl -w kernel.io_uring_disabled=0" if code == errno.EPERM else "build it into the kernel"
            )
            pytest.skip(f"io_uring_setup: {os.strerror(code)}: {remedy}")
        self._sq = struct.unpack_from(
            "10I", parameters, 40
        )  # io_sqring_offsets: head, tail, mask, ..., array at 6
        self._cq = struct.unpack_from(
            "10I", parameters, 80
        )  # io_cqring_offsets: head, tail, mask, ..., cqes at 5
        self._requests = mmap.mmap(self._fd, self._sq[6] + 4, offset=_SQ_RING)
        self._completions = mmap.mmap(self._fd, self._cq[5] + 2 * _COMPLETION, offset=_CQ_RING)
        self._entries = mmap.mmap(self._fd, _ENTRY, offset=_ENTRIES)

    def __enter__(self) -> "AcceptRing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._requests, self._completions, self._entries):
            one.close()
        os.close(self._fd)

    def accept(self, listener: socket.socket) -> socket.socket:
        """The next connection; waits for it."""
        self._entries[:] = struct.pack("BBHiQQII", _ACCEPT, 0, 0, listener.fileno(), 0, 0, 0, 0).ljust(
            _ENTRY, b"\0"
        )
        (tail,) = struct.unpack_from("I", self._requests, self._sq[1])
        struct.pack_into("I", self._requests, self._sq[6], 0)
        struct.pack_into("I", self._requests, self._sq[1], tail + 1)
        if self._libc.syscall(_ENTER, self._fd, 1, 1, _GET_EVENTS, None, 0) != 1:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        head, mask = (struct.unpack_from("I", self._completions, self._cq[i])[0] for i in (0, 2))
        _, result, _ = struct.unpack_from("QiI", self._completions, self._cq[5] + (head & mask) * _COMPLETION)
        struct.pack_into("I", self._completions, self._cq[0], head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return socket.socket(fileno=result)
