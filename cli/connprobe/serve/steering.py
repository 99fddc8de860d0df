"""Which of many listeners on one port the next connections go to.

Where descriptors ask for more processes than there are CPUs, connections that spread over all of them wake
each for a few. So they go to as many listeners as there are CPUs, and after a while to the ones after those.
"""

import ctypes
import mmap
import socket
import struct

SHARE = 256  # connections that a listener gets before the one after the last takes its place
_SO_ATTACH_REUSEPORT_CBPF = 51
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, if false, constant
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: length, address
_LOAD, _ADD, _MODULO, _RETURN = 0x20, 0x04, 0x94, 0x16  # BPF_LD | BPF_W | BPF_ABS, ..., BPF_RET | BPF_A
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM


def shared_round() -> memoryview:
    """Of all processes that are forked after this: the listener whose turn began first, counted on and on."""
    return memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")[:1]


class Steering:
    """One listener's, which was the `place`-th to listen, of so many. `at_a_time` of them get connections."""

    def __init__(
        self, listener: socket.socket, place: int, listeners: int, at_a_time: int, first: memoryview
    ) -> None:
        self._listener, self._first = listener, first
        self._place, self._listeners, self._at_a_time = place, listeners, at_a_time
        if not place:
            self._point()

    def accepted(self, total: int, *, full: bool) -> None:
        """total: how many it has accepted since it listens. full: it cannot take any more.

        Who had fewer than the others gets more in the next round. One that does not accept holds nobody up:
        those beside it come to their share, and go on.
        """
        ahead = (self._place - self._first[0]) % self._listeners
        if ahead < self._at_a_time and (
            full or total >= ((self._first[0] + ahead) // self._listeners + 1) * SHARE
        ):
            self._first[0] += ahead + 1
            self._point()

    def _point(self) -> None:
        """Connections under way stay where they are: their listener was chosen by their SYN.

        Where this is refused (seccomp, net.core.optmem_max) they spread by hash, as they do before.
        """
        pointed = -1
        while pointed != self._first[0]:  # another may have gone on, and been overtaken by the older program
            pointed = self._first[0]
            program = ctypes.create_string_buffer(selection(pointed, self._listeners, self._at_a_time))
            value = _PROGRAM.pack(len(program) // _INSTRUCTION.size, ctypes.addressof(program))
            try:
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, value)
            except OSError:
                self._at_a_time = 0
                return


def selection(first: int, listeners: int, at_a_time: int) -> bytes:
    """A program of classic BPF: one of `at_a_time` listeners from the `first` on, at random."""
    steps = (
        (_LOAD, _RANDOM),
        (_MODULO, at_a_time),
        (_ADD, first % listeners),
        (_MODULO, listeners),
        (_RETURN, 0),
    )
    return b"".join(_INSTRUCTION.pack(code, 0, 0, constant) for code, constant in steps)
