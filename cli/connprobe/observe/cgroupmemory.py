"""How much of a memory cgroup's limit is truly taken: its usage without what the kernel can drop.

A cgroup that has run for a while is always full, mostly of page cache, and connections push that out
before anything fails. So usage says nothing about what is left, and is not read alone.
"""

import re
from pathlib import Path
from typing import NamedTuple

from connprobe.cgroup import Place, places, read_limit


class MemoryBound(NamedTuple):
    """The memory limit of one cgroup.

    capacity_bytes: memory, and the swap that may be used as well. taken_bytes: what cannot be dropped, and
    what is in swap. file: the limit's. throttled: memory.high, at which allocations are slowed down until
    nothing moves; otherwise the kernel kills at capacity_bytes.
    """

    place: Place
    file: Path
    limit_bytes: int
    swap_bytes: int
    taken_bytes: int
    throttled: bool

    @property
    def capacity_bytes(self) -> int:
        return self.limit_bytes + self.swap_bytes


def tightest_memory(pid: int) -> MemoryBound | None:
    """The bound with the least left among those of a process's cgroup and its ancestors.

    None: no limit is set. OSError: /proc/PID/cgroup cannot be read.
    """
    return tightest_of(places("memory", pid), swap_free())


def tightest_of(of: list[Place], swap_free_bytes: int) -> MemoryBound | None:
    """The same among `of`. swap_free_bytes: of the host."""
    found = [bound for place in of if (bound := _bound(place, swap_free_bytes)) is not None]
    return min(found, key=lambda bound: bound.capacity_bytes - bound.taken_bytes, default=None)


def taken(place: Place) -> int | None:
    """Bytes that a cgroup and those below it hold and cannot drop, in memory and in swap. None: unreadable.

    Source: memory.stat, and memory.kmem.usage_in_bytes of v1. Usage itself is ahead of it by up to 64 pages a
    CPU, which the kernel takes in advance and gives back at the limit. Where a kernel does not tell its own
    memory, it is usage without the page cache on the file LRUs. Not left out: tmpfs (on the anonymous LRU),
    and slabs that are called reclaimable, since those are also the dentries and inodes of open sockets. v1
    does not count the buffers of TCP, which have a limit of their own there.
    """
    stat = _stat(place.directory / "memory.stat")
    if (exact := _by_parts(place, stat)) is not None:
        return exact
    if place.version == 2:
        usage, prefix = read_limit(place.directory / "memory.current"), ""
        swapped = read_limit(place.directory / "memory.swap.current") or 0
    else:
        usage, prefix = read_limit(place.directory / "memory.usage_in_bytes"), "total_"
        swapped = stat.get("total_swap", 0)
    files = [stat.get(f"{prefix}{name}_file") for name in ("inactive", "active")]
    if usage is None or None in files:
        return None
    return max(0, usage - sum(each or 0 for each in files)) + swapped


def _by_parts(place: Place, stat: dict[str, int]) -> int | None:
    if place.version == 2:
        swapped = read_limit(place.directory / "memory.swap.current") or 0
        parts = [stat.get(name) for name in ("anon", "shmem", "kernel", "sock")]
    else:
        swapped = stat.get("total_swap", 0)
        parts = [
            *(stat.get(f"total_{name}") for name in ("rss", "shmem")),
            read_limit(place.directory / "memory.kmem.usage_in_bytes"),
        ]
    known = [part for part in parts if part is not None]
    return sum(known) + swapped if len(known) == len(parts) else None


def swap_free() -> int:
    """SwapFree of /proc/meminfo, in bytes."""
    found = re.search(r"^SwapFree:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _bound(place: Place, swap_free_bytes: int) -> MemoryBound | None:
    in_use = taken(place)
    if in_use is None:
        return None
    if place.version == 1:
        file = place.directory / "memory.limit_in_bytes"
        limit = read_limit(file)
        both = read_limit(place.directory / "memory.memsw.limit_in_bytes")
        if limit is None:
            return None
        swapped = _stat(place.directory / "memory.stat").get("total_swap", 0)
        swap = swap_free_bytes + swapped
        swap = swap if both is None else min(swap, max(0, both - limit))
        return MemoryBound(place, file, limit, swap, in_use, False)
    most, high = (read_limit(place.directory / f"memory.{name}") for name in ("max", "high"))
    throttled = high is not None and (most is None or high < most)
    limit = high if throttled else most
    if limit is None:
        return None
    swapped = read_limit(place.directory / "memory.swap.current") or 0
    allowed = read_limit(place.directory / "memory.swap.max")
    swap = swap_free_bytes + swapped
    swap = swap if allowed is None else min(swap, allowed)
    file = place.directory / ("memory.high" if throttled else "memory.max")
    return MemoryBound(place, file, limit, swap, in_use, throttled)


def _stat(path: Path) -> dict[str, int]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    return {name: int(value) for name, value in re.findall(r"^(\w+) ([0-9]+)$", text, re.MULTILINE)}
