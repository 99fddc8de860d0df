"""How full each listener's accept queue gets, and what it turns away (probes/accept_queue.bpf.c).

Listeners are told apart by the inode of their socket, so those of an SO_REUSEPORT group, of other network
namespaces and of a port that is used again are never mixed up; `summed` adds up a group.
"""

import struct
from collections.abc import Iterable, Sequence
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

_LISTENER = struct.Struct(f"Q{ENDPOINT.size}s6I")
_DEPTHS = 11 * 64
_COUNTS = struct.Struct(f"Q{PEAK}{_DEPTHS}I")
_NONE = bytes(_COUNTS.size)
_FIELDS = (
    *SOCKET_FIELDS,
    Field("sock", "sk_ack_backlog", 4),
    Field("sock", "sk_max_ack_backlog", 4),
    Field("sock", "sk_drops", 4),
)
_LOST = ("listeners_full", "no_listener", "guessed")
_HOOKS = (
    Hook("raw_tracepoint", "inet_sock_set_state", "set_state", ("sock", "int", "int"), typed=True),
    Hook("iter", "tcp", "bpf_iter__tcp"),
    Hook("call", "refresh", "refresh"),
)


def probe(listeners: int = 1024) -> Probe:
    """The probe, with room for so many listeners."""
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
                (
                    *_FIELDS,
                    Field("inet_connection_sock", "icsk_accept_queue.rskq_accept_tail", 8),
                    Field("request_sock", "sk", 8),
                ),
                {"HOOK_SET_STATE": 1},
            ),
        ),
        {"LISTENERS": listeners},
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
    _, at, depth, capacity, drops, first_depth, first_drops, closed = _LISTENER.unpack(raw)
    enqueued, odd, even, *depths = _COUNTS.unpack(counts[0] if counts else _NONE)
    return AcceptQueue(
        at=decode_endpoint(at),
        inodes=(inode,),
        depth=depth,
        depth_max=max(highest((odd, even), interval), depth),
        capacity=capacity,
        enqueued=enqueued,
        accepted=max(0, first_depth + enqueued - depth),
        overflows=(drops - first_drops) % (1 << 32),
        drops=drops,
        depths=(*depths, *[0] * (BUCKETS - _DEPTHS)),
        closed=bool(closed),
    )
