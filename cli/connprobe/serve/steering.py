"""Has the kernel choose the listener of each next connection, where there are many on one port."""

import ctypes
import mmap
import socket
import struct

from connprobe.plan.turns import Turns, passed_on

_SO_ATTACH_REUSEPORT_CBPF = 51
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, if false, constant
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: length, address
_LOAD, _ADD, _MODULO, _RETURN = 0x20, 0x04, 0x94, 0x16  # BPF_LD | BPF_W | BPF_ABS, ..., BPF_RET | BPF_A
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM


def shared_turns(at_a_time: int) -> memoryview:
    """`Turns` of all processes that are forked after this."""
    turns = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")[:2]
    turns[1] = at_a_time
    return turns


class Steering:
    """One listener's, which was the `place`-th to listen, of so many; its process has room for `room`."""

    def __init__(
        self, listener: socket.socket, place: int, listeners: int, room: int, turns: memoryview
    ) -> None:
        self._listener, self._turns = listener, turns
        self._place, self._listeners, self._room = place, listeners, room
        self._refused = False
        if not place:
            self._point()

    def accepted(self, total: int, *, full: bool) -> None:
        """See plan.turns.passed_on."""
        passed = passed_on(self._now(), self._place, self._listeners, self._room, total, full=full)
        if passed is not None and not self._refused:
            self._turns[0], self._turns[1] = passed
            self._point()

    def _now(self) -> Turns:
        first, having = self._turns
        return first, having

    def _point(self) -> None:
        """Connections under way stay where they are: their listener was chosen by their SYN.

        Where this is refused (seccomp, net.core.optmem_max) they spread by hash, as they do before.
        """
        pointed = None
        while pointed != (turns := self._now()):  # another went on, and was overtaken by this
            pointed = turns
            program = ctypes.create_string_buffer(selection(pointed, self._listeners))
            value = _PROGRAM.pack(len(program) // _INSTRUCTION.size, ctypes.addressof(program))
            try:
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, value)
            except OSError:
                self._refused = True
                return


def selection(turns: Turns, listeners: int) -> bytes:
    """A program of classic BPF: one of those that have their turn, at random."""
    first, having = turns
    steps = (
        (_LOAD, _RANDOM),
        (_MODULO, having),
        (_ADD, first % listeners),
        (_MODULO, listeners),
        (_RETURN, 0),
    )
    return b"".join(_INSTRUCTION.pack(code, 0, 0, constant) for code, constant in steps)
