"""Where a server's memory ends: at the limit of its cgroup, or at the end of the host's."""

from connprobe.model import Ceiling
from connprobe.observe.cgroupmemory import MemoryBound, swap_free, taken
from connprobe.observe.procfs import unit_of
from connprobe.observe.reading import ServerMeter


def memory_ceilings(meter: ServerMeter) -> list[Ceiling]:
    """OSError: /proc/meminfo cannot be read."""
    found = [_cgroup(meter.memory, unit_of(meter.pids[0]))] if meter.memory is not None else []
    swap = swap_free()
    host = Ceiling(
        resource="memory",
        scope="host",
        capacity=meter.available_bytes,
        source="MemAvailable of /proc/meminfo, at the start",
        fix="a machine with more memory, or less of it for each connection",
        metric="memory_bytes",
        used=meter.taken_bytes(),
        unit="bytes",
        exact=False,
        note=f"{swap / 1e9:.1f} GB of swap come on top, slowly" if swap else None,
    )
    return [*found, host]


def _cgroup(bound: MemoryBound, unit: str | None) -> Ceiling:
    more = 2 * bound.limit_bytes
    name = bound.file.name
    fix = f"echo {more} > {bound.file}"
    of_this_unit = unit is not None and bound.place.name.endswith(f"/{unit}")
    if of_this_unit:
        setting = "MemoryHigh" if name == "memory.high" else "MemoryMax"
        fix = f"systemctl set-property {unit} {setting}={more}"
    elif name == "memory.limit_in_bytes" and (bound.file.parent / "memory.memsw.limit_in_bytes").exists():
        fix += f" (memory.memsw.limit_in_bytes first, where it is set: {more} as well)"
    notes = ["kernel memory counts, page cache does not"]
    if bound.throttled:
        notes.append("above memory.high the server is slowed down until it stands still, but not killed")
    if bound.swap_bytes:
        notes.append(f"{bound.swap_bytes / 1e6:,.0f} MB of it are swap, and slow")
    return Ceiling(
        resource="cgroup_memory",
        scope=f"cgroup {bound.place.name}",
        capacity=bound.capacity_bytes,
        source=str(bound.file),
        fix=fix,
        metric="cgroup_bytes",
        used=taken(bound.place),
        unit="bytes",
        exact=False,
        note="; ".join(notes),
    )
