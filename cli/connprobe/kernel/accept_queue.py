"""How full each listener's accept queue gets, and what it turns away (probes/accept_queue.bpf.c).

Listeners are told apart by the inode of their socket, so those of an SO_REUSEPORT group, of other network
namespaces and of a port that is used again are never mixed up; `summed` adds up a group.
"""

import struct
import sys
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from connprobe.kernel.btf import Field
from connprobe.kernel.listeners import (
    ENDPOINT,
    PEAK,
    SOCKET_FIELDS,
    Endpoint,
    Listeners,
    decode_endpoint,
    highest,
)
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Hook, Probe, Rung
from connprobe.plan.histogram import BUCKETS

_LISTENER = struct.Struct(f"Q{ENDPOINT.size}sQ6I8x")
_DEPTHS = 11 * 64
_COUNTS = struct.Struct(f"Q{PEAK}{_DEPTHS}I")
_NONE = bytes(_COUNTS.size)
_LOOK = struct.Struct("3Q")
_LONGEST, _UNKNOWN, _NOBODY_WAITS = range((1 << 32) - 3, 1 << 32)
_ARRIVED, _CLOSED = 1, 2
_UNSETTLED = 256  # of the newest looks, those that may be in the making
_FIELDS = (
    *SOCKET_FIELDS,
    Field("sock", "sk_ack_backlog", 4),
    Field("sock", "sk_max_ack_backlog", 4),
    Field("sock", "sk_drops", 4),
    Field("inet_connection_sock", "icsk_accept_queue.rskq_accept_head", 8),
    Field("request_sock", "sk", 8),
    Field("tcp_sock", "rcvq_space.time", 8),
)
_LOST = ("listeners_full", "no_listener", "guessed")
_HOOKS = (
    Hook("raw_tracepoint", "inet_sock_set_state", "set_state", ("sock", "int", "int"), typed=True),
    Hook("iter", "tcp", "bpf_iter__tcp"),
    Hook("call", "refresh", "refresh"),
)


def probe(listeners: int = 1024, looks: int = 1 << 16) -> Probe:
    """The probe, with room for so many listeners, and for the last looks, a power of two."""
    return Probe(
        "accept_queue",
        (
            Rung(
                "raw tracepoint sk_data_ready",
                (*_HOOKS, Hook("raw_tracepoint", "sk_data_ready", "data_ready", ("sock",), typed=True)),
                _FIELDS,
                {"HOOK_DATA_READY": 1},
            ),
            Rung(
                "raw tracepoint inet_sock_set_state",
                _HOOKS,
                (*_FIELDS, Field("inet_connection_sock", "icsk_accept_queue.rskq_accept_tail", 8)),
                {"HOOK_SET_STATE": 1},
            ),
        ),
        {"LISTENERS": listeners, "LOOKS": looks},
    )


class AcceptQueue(NamedTuple):
    """One listener, or several `summed`. Counts are since the probe saw it first.

    depths: by bucket of plan/histogram.py, how often an enqueued connection found itself the so-many-th.
    overflows: connections that the listener turned away; sk_drops, which also counts SYNs that it dropped for
    want of memory or of room among the half-open.
    """

    at: Endpoint
    inodes: tuple[int, ...]
    depth: int
    depth_max: int  # since the reading before; of several the deepest one's
    capacity: int
    enqueued: int
    accepted: int  # taken out of the queue, by accept or as the listener was closed
    overflows: int
    drops: int  # sk_drops since the listener began
    depths: tuple[int, ...]
    closed: bool  # a last reading: it will not be given again


class Reading(NamedTuple):
    listeners: tuple[AcceptQueue, ...]
    lost: dict[str, int]  # what could not be counted, by cause; empty where all was

    @property
    def complete(self) -> bool:
        return not self.lost


class AcceptQueues:
    """Reads a live `accept_queue`. `read` may raise OSError where the probe was torn away."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._listeners = Listeners(live, _decode)

    def read(self) -> Reading:
        """All listeners that were met, and in this network namespace all there are."""
        found = self._listeners.read()
        found.sort(key=lambda queue: (queue.at.netns, queue.at.port, queue.inodes))
        return Reading(tuple(found), self._live.lost(_LOST))


class Look(NamedTuple):
    """One moment of a listener's queue, by the monotonic clock.

    oldest_us: when the one that has waited longest had come; a microsecond later than the look where none
    waits, 0 where it came more than an hour before, None: not known. arrived: a connection has just come into
    the queue. closed: those that wait will never be accepted.
    """

    inode: int
    time_us: int
    oldest_us: int | None
    arrived: bool
    closed: bool


class Looks:
    """Reads what a live `accept_queue` sees of its queues from now on. OSError."""

    def __init__(self, live: Live) -> None:
        self._count = live.maps["looked"]
        self._room = live.maps["looks"].max_entries
        self._ring = live.maps["looks"].mapped()
        self._next = self._written()
        self._begun = False

    def read(self, wanted: Container[int]) -> tuple[list[Look], int]:
        """(those since the reading before, how many more there were that were written over).

        wanted: inodes of listeners; the others' are left out. Before the first reading none is missed.
        """
        written = self._written()
        first = max(self._next, written - self._room)
        laps = self._copied(first, written)
        fields = self._copied(
            first, written
        )  # after the laps: where one is right, so is what stands before it
        begin = min(max(first, self._written() - self._room), written)
        lost = begin - self._next if self._begun else 0
        self._next, self._begun = written, True
        at = (begin - first) * _LOOK.size
        found = []
        for number, (*_, settled), (inode, time_us, last) in zip(
            range(begin, written), _LOOK.iter_unpack(laps[at:]), _LOOK.iter_unpack(fields[at:]), strict=True
        ):
            lap, waited_us = settled >> 32, last & 0xFFFFFFFF
            if lap >> 2 != (number // self._room + 1) % (1 << 30):
                if written - number <= _UNSETTLED:  # it is just being written: next time
                    self._next = number
                    break
                lost += 1
            elif inode in wanted:
                oldest_us = _oldest(time_us, waited_us)
                found.append(Look(inode, time_us, oldest_us, bool(lap & _ARRIVED), bool(lap & _CLOSED)))
        return found, lost

    def _written(self) -> int:
        found = self._count.get(bytes(4))
        return int.from_bytes(found[0], sys.byteorder) if found else 0

    def _copied(self, first: int, end: int) -> bytes:
        size = self._room * _LOOK.size
        at, stop = (number * _LOOK.size for number in (first % self._room, first % self._room + end - first))
        return self._ring[at : min(stop, size)] + self._ring[: max(0, stop - size)]


def _oldest(time_us: int, waited_us: int) -> int | None:
    special = {_NOBODY_WAITS: time_us + 1, _LONGEST: 0, _UNKNOWN: None}
    return special[waited_us] if waited_us in special else time_us - waited_us


def summed(queues: Iterable[AcceptQueue]) -> list[AcceptQueue]:
    """One for each endpoint: an SO_REUSEPORT group as if it were a single queue."""
    groups: dict[Endpoint, list[AcceptQueue]] = {}
    for queue in queues:
        groups.setdefault(queue.at, []).append(queue)
    return [_sum(at, group) for at, group in groups.items()]


def _sum(at: Endpoint, group: Sequence[AcceptQueue]) -> AcceptQueue:
    return AcceptQueue(
        at=at,
        inodes=tuple(inode for one in group for inode in one.inodes),
        depth=sum(one.depth for one in group),
        depth_max=max(one.depth_max for one in group),
        capacity=sum(one.capacity for one in group),
        enqueued=sum(one.enqueued for one in group),
        accepted=sum(one.accepted for one in group),
        overflows=sum(one.overflows for one in group),
        drops=sum(one.drops for one in group),
        depths=tuple(map(sum, zip(*(one.depths for one in group), strict=True))),
        closed=all(one.closed for one in group),
    )


def _decode(inode: int, raw: bytes, counts: Sequence[bytes], interval: int) -> AcceptQueue:
    _, at, enqueued_then, depth, capacity, drops, first_depth, first_drops, closed = _LISTENER.unpack(raw)
    enqueued, odd, even, *depths = _COUNTS.unpack(counts[0] if counts else _NONE)
    return AcceptQueue(
        at=decode_endpoint(at),
        inodes=(inode,),
        depth=depth,
        depth_max=max(highest((odd, even), interval), depth),
        capacity=capacity,
        enqueued=enqueued,
        accepted=max(0, first_depth + enqueued_then - depth),
        overflows=(drops - first_drops) % (1 << 32),
        drops=drops,
        depths=(*depths, *[0] * (BUCKETS - _DEPTHS)),
        closed=bool(closed),
    )
