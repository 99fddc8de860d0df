"""What the kernel refuses, or waits for, because memory is short (probes/memory_pressure.bpf.c).

All figures are the whole machine's. That a protocol enters memory pressure passes no tracepoint: it is the
SNMP counter TCPMemoryPressures. Nor does a failed allocation, but in mm_page_alloc, which every page passes.
"""

import sys
from typing import NamedTuple

from connprobe.kernel.btf import Btf, Field
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Hook, Probe, Rung

REASONS = 256
_LOST = ("reclaims_full",)
_PREFIX = "SKB_DROP_REASON_"
# Of enum skb_drop_reason: want of memory, or of room in a queue that memory bounds.
_MEMORY_REASONS = ("PROTO_MEM", "SOCKET_RCVBUFF", "SOCKET_BACKLOG", "CPU_BACKLOG", "FULL_RING", "NOMEM")
_SOCKETS = (
    Hook("raw_tracepoint", "sock_exceed_buf_limit", "exceed", ("sock", "proto", "long int", "int")),
    Hook("raw_tracepoint", "sock_rcvqueue_full", "receive_queue_full"),
    Hook("raw_tracepoint", "mark_victim", "oom_kill"),
)
_RECLAIM = (
    Hook("raw_tracepoint", "mm_vmscan_direct_reclaim_begin", "direct_begin"),
    Hook("raw_tracepoint", "mm_vmscan_direct_reclaim_end", "direct_end"),
    Hook("raw_tracepoint", "mm_vmscan_kswapd_wake", "kswapd_wake"),
)
_CGROUP = (
    Hook("raw_tracepoint", "mm_vmscan_memcg_reclaim_begin", "cgroup_begin"),
    Hook("raw_tracepoint", "mm_vmscan_memcg_reclaim_end", "cgroup_end"),
)
_DROPS = (Hook("raw_tracepoint", "kfree_skb", "drop", ("sk_buff", "void", "skb_drop_reason")),)
_FIELDS = (Field("proto", "sysctl_mem", 8),)


def probe(reclaiming: int = 4096) -> Probe:
    """The probe, with room for so many threads that reclaim memory at the same time."""
    rungs = (
        ("all", _RECLAIM + _CGROUP + _DROPS, ("RECLAIM", "CGROUP", "DROPS")),
        ("without cgroups", _RECLAIM + _DROPS, ("RECLAIM", "DROPS")),
        ("without drops", _RECLAIM + _CGROUP, ("RECLAIM", "CGROUP")),
        ("without cgroups and drops", _RECLAIM, ("RECLAIM",)),
        ("sockets", (), ()),
    )
    return Probe(
        "memory_pressure",
        tuple(
            Rung(f"tracepoints: {name}", _SOCKETS + hooks, _FIELDS, {f"HOOK_{one}": 1 for one in parts})
            for name, hooks, parts in rungs
        ),
        {"RECLAIMING": reclaiming, "REASONS": REASONS},
    )


class Refused(NamedTuple):
    """How often a socket was refused buffer memory (sock_exceed_buf_limit).

    over_limit: all sockets of the protocol have reached the third figure of tcp_mem (or udp_mem).
    otherwise: by the memory cgroup, or for its fair share while under pressure.
    """

    over_limit: int
    otherwise: int


class Reclaim(NamedTuple):
    """How often a thread had to free memory itself before it got some, and how long that took in all."""

    times: int
    time_s: float


class MemoryPressure(NamedTuple):
    """Since the probe was attached. None: this kernel has no such tracepoint, see `Live.refused`.

    receive_queue_full: raw, ICMP and packet sockets; TCP and UDP tell by `drops`.
    direct_reclaim: for want of pages; cgroup_reclaim: as a memory cgroup is at its limit.
    kswapd_wakes: free pages have fallen below the low watermark.
    drops: packets dropped for want of memory or room, by the name in enum skb_drop_reason, without zeros.
    """

    send: Refused
    receive: Refused
    receive_queue_full: int
    oom_kills: int
    direct_reclaim: Reclaim | None
    cgroup_reclaim: Reclaim | None
    kswapd_wakes: int | None
    drops: dict[str, int] | None
    lost: dict[str, int]


class MemoryPressures:
    """Reads a live `memory_pressure`; `read` may raise OSError where it was torn away."""

    def __init__(self, live: Live, btf: Btf | None = None) -> None:
        """btf: the kernel's own unless given; where drops are counted it has the enum of their reasons."""
        self._live = live
        self._reasons: dict[int, str] | None = None
        if "drops" in live.maps:
            names = (btf or Btf.of_kernel()).enum("skb_drop_reason")
            named = ((number, name.removeprefix(_PREFIX)) for number, name in names.items())
            self._reasons = {number: name for number, name in named if name in _MEMORY_REASONS}

    def read(self) -> MemoryPressure:
        maps = self._live.maps
        counts = [_sum(values) for _, values in maps["counts"].items()]
        over_send, over_receive, send, receive, full, direct, direct_ns, cgroup, cgroup_ns, wakes, kills = (
            counts
        )
        hooks = self._live.hooks
        drops = None
        if self._reasons is not None:
            found = {
                name: _sum(maps["drops"].get(number.to_bytes(4, sys.byteorder)) or [])
                for number, name in self._reasons.items()
            }
            drops = {name: count for name, count in found.items() if count}
        reclaims = "raw_tracepoint mm_vmscan_direct_reclaim_end" in hooks
        groups = "raw_tracepoint mm_vmscan_memcg_reclaim_end" in hooks
        return MemoryPressure(
            send=Refused(over_send, send),
            receive=Refused(over_receive, receive),
            receive_queue_full=full,
            oom_kills=kills,
            direct_reclaim=Reclaim(direct, direct_ns / 1e9) if reclaims else None,
            cgroup_reclaim=Reclaim(cgroup, cgroup_ns / 1e9) if groups else None,
            kswapd_wakes=wakes if reclaims else None,
            drops=drops,
            lost=self._live.lost(_LOST),
        )


def _sum(values: list[bytes]) -> int:
    return sum(int.from_bytes(value, sys.byteorder) for value in values)
