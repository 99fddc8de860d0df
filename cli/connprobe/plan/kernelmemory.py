"""What a connection costs in kernel memory: two readings of the kernel's books, and what grew between them.

A slab hands out whole pages, so an object costs its share of them and not only its size. Caches of the
same shape are merged, and /proc/slabinfo then shows one of their names for all.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from connprobe.model import KernelFigures

# What one end of a connection may hold of each cache, at most: more than that grew for another reason.
OF_A_SOCKET: Final[Mapping[str, int]] = {
    "TCP": 1,
    "TCPv6": 1,
    "sock_inode_cache": 1,
    "dentry": 1,
    "filp": 1,
    "lsm_inode_cache": 1,
    "lsm_file_cache": 1,
    "eventpoll_epi": 1,
    "eventpoll_pwq": 1,
    "ep_head": 1,
    "tcp_bind_bucket": 1,  # of who connects; a server's connections share that of their listener
    "tcp_bind2_bucket": 1,
    "request_sock_TCP": 1,
    "request_sock_TCPv6": 1,
    "tw_sock_TCP": 1,
    "tw_sock_TCPv6": 1,
    "nf_conntrack": 1,
}
SOCKETS: Final = ("TCP", "TCPv6")
FEWER_SOCKETS = 0.98  # of those expected: below, the figures are of too few
SHOWN = 12  # slabs that grew besides, largest first; the rest is summed
BESIDE: Final[Mapping[str, str]] = {
    "page_tables": "PageTables",
    "secondary_page_tables": "SecPageTables",
    "percpu": "Percpu",
    "kernel_stacks": "KernelStack",
    "vmalloc": "VmallocUsed",
}


class Slab(NamedTuple):
    """One line of /proc/slabinfo. Objects that the allocator keeps for a CPU count as active."""

    active: int
    objects_per_slab: int
    pages_per_slab: int
    slabs: int


class KernelMemory(NamedTuple):
    """The kernel's books at one moment. What could not be read is None; `reason` says why.

    meminfo: bytes. slabs: by their name in /proc/slabinfo. names: all caches that share a slab, for those
    that do. socket_bytes: what TCP accounts for queued data. percpu_free_bytes: free pages that a CPU keeps
    for itself, which MemFree leaves out. low_bytes: the low watermarks of all zones.
    """

    page_bytes: int
    meminfo: Mapping[str, int]
    slabs: Mapping[str, Slab] | None
    names: Mapping[str, tuple[str, ...]] | None
    socket_bytes: int | None
    percpu_free_bytes: int | None
    low_bytes: int | None
    reason: str | None = None
    fix: str | None = None


class SlabGrowth(NamedTuple):
    """objects: live ones. page_bytes: pages taken from the machine (less than 0: given back).

    packed_bytes: what an object takes with its share of the slab's pages.
    """

    objects: int
    page_bytes: int
    packed_bytes: float


def slab_growth(before: KernelMemory, after: KernelMemory) -> dict[str, SlabGrowth]:
    """What changed, by the slab's name in /proc/slabinfo; a slab that came or went has grown from or to 0."""
    early, late = before.slabs or {}, after.slabs or {}
    grown = {}
    for name in sorted({*early, *late}):
        new = late.get(name, early.get(name, Slab(0, 1, 0, 0)))
        now, was = late.get(name, new._replace(active=0, slabs=0)), early.get(name)
        slab_bytes = new.pages_per_slab * after.page_bytes
        change = SlabGrowth(
            now.active - (was.active if was else 0),
            (now.slabs - (was.slabs if was else 0)) * slab_bytes,
            slab_bytes / max(1, new.objects_per_slab),
        )
        if change.objects or change.page_bytes:
            grown[name] = change
    return grown


def kernel_figures(
    before: KernelMemory, after: KernelMemory, connections: int, ends: Literal[1, 2]
) -> KernelFigures | None:
    """Bytes of kernel memory for each of `connections` that came between the readings.

    ends: 2 where both sockets of a connection are on this host. None: no connection to divide by, or no
    source. Source: /proc/slabinfo; where that is closed, the growth of Slab in /proc/meminfo.
    """
    if connections <= 0:
        return None
    explained = reconcile(before, after)
    unexplained = explained.unexplained_bytes if explained else None
    beside = beside_growth(before, after)
    if before.slabs is None or after.slabs is None:
        if "Slab" not in before.meminfo or "Slab" not in after.meminfo:
            return None
        unread = after if after.slabs is None else before
        return KernelFigures(
            bytes_per_connection=(after.meminfo["Slab"] - before.meminfo["Slab"]) / connections,
            slabs={},
            connections=connections,
            ends=ends,
            source="Slab of /proc/meminfo",
            complete=False,
            reason=f"approximate, with all that the kernel allocated meanwhile: {unread.reason}",
            fix=unread.fix,
            beside_bytes=beside,
            unexplained_bytes=unexplained,
        )
    growth = slab_growth(before, after)
    sockets = connections * ends
    objects: dict[str, int] = {}
    taken: dict[str, float] = {}
    other: dict[str, int] = {}
    for name, grown in growth.items():
        all_names = (after.names or {}).get(name, (name,))
        ours = sorted(OF_A_SOCKET.keys() & set(all_names))
        mine = min(max(0, grown.objects), sockets * sum(OF_A_SOCKET[each] for each in ours))
        if mine:
            key = "+".join(ours)
            objects[key] = objects.get(key, 0) + mine
            taken[key] = taken.get(key, 0.0) + mine * grown.packed_bytes
        rest = grown.page_bytes - round(mine * grown.packed_bytes)
        if rest:
            other[name] = rest
    reason, fix = _doubts(after, objects, sockets)
    return KernelFigures(
        bytes_per_connection=sum(taken.values()) / connections,
        slabs={key: taken[key] / connections for key in sorted(taken, key=lambda key: -taken[key])},
        objects_per_connection={key: number / connections for key, number in objects.items()},
        connections=connections,
        ends=ends,
        source="/proc/slabinfo",
        complete=reason is None,
        reason=reason,
        fix=fix,
        other_slabs_bytes=_largest(other),
        other_growth_bytes=sum(other.values()),
        beside_bytes=beside,
        unexplained_bytes=unexplained,
    )


def _doubts(after: KernelMemory, objects: Mapping[str, int], sockets: int) -> tuple[str | None, str | None]:
    found = sum(number for key, number in objects.items() if key in SOCKETS)
    if found < FEWER_SOCKETS * sockets:
        few = f"{found:,} TCP sockets were added where {sockets:,} were expected: others went meanwhile"
        return few, "measure while nothing else opens or closes connections on this machine"
    if after.names is None:
        return after.reason, after.fix
    return None, None


def _largest(other: Mapping[str, int]) -> dict[str, int]:
    order = sorted(other, key=lambda name: (-abs(other[name]), name))
    shown = {name: other[name] for name in order[:SHOWN]}
    rest = sum(other[name] for name in order[SHOWN:])
    return shown | {"others": rest} if rest else shown


def beside_growth(before: KernelMemory, after: KernelMemory) -> dict[str, int]:
    """Bytes of kernel memory that grew outside the slabs, for whatever reason; what is not told is left out.

    large_kmalloc: allocations too large for a slab, as the table of a process's descriptors; Slab of
    /proc/meminfo counts them, /proc/slabinfo does not.
    """
    grown = {
        key: after.meminfo[name] - before.meminfo[name]
        for key, name in BESIDE.items()
        if name in before.meminfo and name in after.meminfo
    }
    if (
        before.slabs is not None
        and after.slabs is not None
        and "Slab" in before.meminfo.keys() & after.meminfo.keys()
    ):
        pages = sum(slab.page_bytes for slab in slab_growth(before, after).values())
        grown["large_kmalloc"] = after.meminfo["Slab"] - before.meminfo["Slab"] - pages
    if before.socket_bytes is not None and after.socket_bytes is not None:
        grown["socket_buffers"] = after.socket_bytes - before.socket_bytes
    return grown


class Reconciliation(NamedTuple):
    """Where MemAvailable went between two readings, in bytes, on the whole machine.

    fall_bytes = kernel_bytes + user_bytes - counted_available_bytes + kept_by_cpus_bytes + unexplained_bytes.
    counted_available_bytes: reclaimable slabs and page cache that grew and that MemAvailable takes for
    available. The inode and the dentry of a socket are among them, though no pressure frees them before the
    socket is closed: so MemAvailable understates what connections take.
    """

    fall_bytes: int
    kernel_bytes: int
    user_bytes: int  # anonymous and shared memory of all processes
    counted_available_bytes: int
    kept_by_cpus_bytes: int
    unexplained_bytes: int


def reconcile(before: KernelMemory, after: KernelMemory) -> Reconciliation | None:
    """The fall of MemAvailable against everything that the kernel counts. None: a file was not readable.

    As in si_mem_available (mm/show_mem.c): half of the page cache, and half of what is reclaimable, but no
    more than the low watermarks each, are taken as needed.
    """
    needed = ("MemAvailable", "Slab", "AnonPages", "Active(file)", "Inactive(file)")
    if any(name not in reading.meminfo for reading in (before, after) for name in needed):
        return None
    if None in (before.percpu_free_bytes, after.percpu_free_bytes, before.low_bytes, after.low_bytes):
        return None

    def grown(*names: str) -> int:
        return sum(after.meminfo.get(name, 0) - before.meminfo.get(name, 0) for name in names)

    reclaimable = grown("KReclaimable") if "KReclaimable" in after.meminfo else grown("SReclaimable")
    # With CONFIG_VMAP_STACK, VmallocUsed contains the kernel stacks.
    mapped = max(grown("VmallocUsed"), grown("KernelStack"), key=abs)
    kernel = grown("Slab", "PageTables", "SecPageTables", "Percpu") + mapped
    kernel += reclaimable - grown("SReclaimable")
    cache = grown("Active(file)", "Inactive(file)")
    counted = _counted(after) - _counted(before) - cache
    user = grown("AnonPages", "Shmem")
    kept = (after.percpu_free_bytes or 0) - (before.percpu_free_bytes or 0)
    fall = -grown("MemAvailable")
    return Reconciliation(fall, kernel, user, counted, kept, fall - (kernel + user - counted + kept))


def _counted(reading: KernelMemory) -> int:
    """What MemAvailable adds to MemFree."""
    meminfo, low = reading.meminfo, reading.low_bytes or 0
    cache = meminfo["Active(file)"] + meminfo["Inactive(file)"]
    reclaimable = meminfo.get("KReclaimable", meminfo.get("SReclaimable", 0))
    return sum(part - min(part // 2, low) for part in (cache, reclaimable))
