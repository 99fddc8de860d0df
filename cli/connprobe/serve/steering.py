"""Has the kernel give what comes from neighbouring ports to one of many listeners.

A client that opens a burst of connections takes its ports one after the other. The kernel's own hash spreads
these over all listeners, where each process is woken for a few.
"""

import ctypes
import socket
import struct

NEIGHBOURS_BITS = 9  # ports that differ in these alone are neighbours
_SO_ATTACH_REUSEPORT_CBPF = 51
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, if false, constant
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: length, address
_LOAD_BYTE, _LOAD_HALF, _LOAD_HALF_BEHIND_X = 0x30, 0x28, 0x48  # BPF_LD, with BPF_ABS, and BPF_IND
_LOAD_X_HEADER_LENGTH, _TO_X, _ADD_X = 0xB1, 0x07, 0x0C  # BPF_LDX | BPF_MSH; BPF_TAX
_SHIFT_RIGHT, _MODULO, _IS, _GO, _RETURN = 0x74, 0x94, 0x15, 0x05, 0x16
_NETWORK = 0xFFF00000  # SKF_NET_OFF: what the program is shown begins behind the header of TCP


def steer(listener: socket.socket, listeners: int) -> bool:
    """`listener`: one of the group. False: it is refused (seccomp, net.core.optmem_max), they share by hash.

    Once, and before connections come: kernels without commit 18fc650ccd7f (CVE-2026-52910) free a program
    that is replaced while another CPU may run it.
    """
    steps = selection(listeners)
    program = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*step) for step in steps))
    value = _PROGRAM.pack(len(steps), ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, value)
    except OSError:
        return False
    return True


def selection(listeners: int) -> list[tuple[int, int, int, int]]:
    """A program of classic BPF. Which listener: the source port's higher bits and the bytes of the source
    address (of IPv6, the halfwords of its interface identifier), summed, modulo their number."""
    ipv4 = [
        (_LOAD_X_HEADER_LENGTH, 0, 0, _NETWORK),
        (_LOAD_HALF_BEHIND_X, 0, 0, _NETWORK),
        (_SHIFT_RIGHT, 0, 0, NEIGHBOURS_BITS),
        *_added(_LOAD_BYTE, range(12, 16)),
    ]
    ipv6 = [
        (_LOAD_HALF, 0, 0, _NETWORK + 40),
        (_SHIFT_RIGHT, 0, 0, NEIGHBOURS_BITS),
        *_added(_LOAD_HALF, range(16, 24, 2)),
    ]
    return [
        (_LOAD_BYTE, 0, 0, _NETWORK),
        (_SHIFT_RIGHT, 0, 0, 4),
        (_IS, len(ipv4) + 1, 0, 6),
        *ipv4,
        (_GO, 0, 0, len(ipv6)),
        *ipv6,
        (_MODULO, 0, 0, listeners),
        (_RETURN, 0, 0, 0),
    ]


def _added(load: int, places: range) -> list[tuple[int, int, int, int]]:
    """What stands in these places of the network header, added to the accumulator."""
    steps = ((_TO_X, 0), (load, _NETWORK), (_ADD_X, 0))
    return [(code, 0, 0, base + place if base else 0) for place in places for code, base in steps]
