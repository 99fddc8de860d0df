"""How many half-open connections each listener holds (probes/syn_queue.bpf.c).

What the kernel counts for a whole network namespace alone is not here: SYN cookies sent (SyncookiesSent) and
requests dropped because the queue was full (TCPReqQFullDrop), both in /proc/net/netstat.
"""

import struct
from collections.abc import Sequence
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

LISTENERS = 4096
_LISTENER = struct.Struct(f"Q{ENDPOINT.size}s9I4x")
_COUNTS = struct.Struct(f"Q{PEAK}")
_FIELDS = (
    *SOCKET_FIELDS,
    Field("sock", "sk_max_ack_backlog", 4),
    Field("sock", "sk_drops", 4),
    Field("inet_connection_sock", "icsk_accept_queue.qlen", 4),
    Field("inet_connection_sock", "icsk_accept_queue.young", 4),
    Field("net", "ipv4.sysctl_max_syn_backlog", 4),
    Field("net", "ipv4.sysctl_tcp_syncookies", 1),
    Field("request_sock", "__req_common.skc_listener", 8),
)
_LOST = ("listeners_full", "no_listener")
_HOOKS = (
    Hook("raw_tracepoint", "inet_sock_set_state", "set_state", ("sock", "int", "int"), typed=True),
    Hook("raw_tracepoint", "tcp_retransmit_synack", "retransmit", ("sock", "request_sock")),
    Hook("iter", "tcp", "bpf_iter__tcp"),
    Hook("call", "refresh", "refresh"),
)
_DATA_READY = Hook("raw_tracepoint", "sk_data_ready", "data_ready", ("sock",), typed=True)


def probe(listeners: int = LISTENERS) -> Probe:
    """The probe, with room for so many listeners."""
    return Probe(
        "syn_queue",
        (
            _rung("sk_data_ready and tcp_retransmit_synack", 1, data_ready=True),
            _rung("sk_data_ready and tcp_retransmit_synack, synflood_warned of 4 bytes", 4, data_ready=True),
            _rung("tcp_retransmit_synack", 1, data_ready=False),
            _rung("tcp_retransmit_synack, synflood_warned of 4 bytes", 4, data_ready=False),
        ),
        {"LISTENERS": listeners},
    )


def _rung(name: str, warned_size: int, *, data_ready: bool) -> Rung:
    warned = Field("inet_connection_sock", "icsk_accept_queue.synflood_warned", warned_size)
    return Rung(
        f"raw tracepoints {name}",
        (*_HOOKS, _DATA_READY) if data_ready else _HOOKS,
        (*_FIELDS, warned),
        {"WARNED_SIZE": warned_size, **({"HOOK_DATA_READY": 1} if data_ready else {})},
    )


class SynQueue(NamedTuple):
    """One listener. Counts are since the probe saw it first."""

    at: Endpoint
    inode: int
    depth: int  # SYNs answered whose last ACK has not come
    young: int  # of these, whose SYN-ACK was sent only once
    depth_max: int  # seen since the reading before: at least this
    backlog: int  # more than so many half-open, and SYNs get cookies or are dropped
    max_syn_backlog: int  # its namespace's net.ipv4.tcp_max_syn_backlog: binds only without cookies
    syncookies: int  # its namespace's net.ipv4.tcp_syncookies: 0 never, 1 when the queue is full, 2 always
    flooded: bool  # was full at least once since it began to listen; not told where cookies are always sent
    retransmits: int  # SYN-ACKs sent again
    drops: int  # growth of sk_drops: for want of room here, in the accept queue, or of memory
    closed: bool  # a last reading: it will not be given again


class Reading(NamedTuple):
    listeners: tuple[SynQueue, ...]
    lost: dict[str, int]  # what could not be counted, by cause; empty where all was

    @property
    def complete(self) -> bool:
        return not self.lost


class SynQueues:
    """Reads a live `syn_queue`. `read` may raise OSError where the probe was torn away."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._listeners = Listeners(live, _decode)

    def read(self) -> Reading:
        """All listeners that were met, and in this network namespace all there are."""
        found = self._listeners.read()
        found.sort(key=lambda queue: (queue.at.netns, queue.at.port, queue.inode))
        return Reading(tuple(found), self._live.lost(_LOST))


def _decode(inode: int, raw: bytes, counts: Sequence[bytes], interval: int) -> SynQueue:
    fields = _LISTENER.unpack(raw)
    depth, young, backlog, max_syn_backlog, syncookies, flooded, drops, first_drops, closed = fields[2:]
    retransmits = deepest = 0
    for value in counts:
        mine, *peak = _COUNTS.unpack(value)
        retransmits += mine
        deepest = max(deepest, highest(peak, interval))
    return SynQueue(
        at=decode_endpoint(fields[1]),
        inode=inode,
        depth=depth,
        young=young,
        depth_max=max(deepest, depth),
        backlog=backlog,
        max_syn_backlog=max_syn_backlog,
        syncookies=syncookies,
        flooded=bool(flooded),
        retransmits=retransmits,
        drops=(drops - first_drops) % (1 << 32),
        closed=bool(closed),
    )
