"""The host around a run, read each second: memory left, and where CPU time goes."""

import os
from pathlib import Path
from typing import NamedTuple

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class CpuTimes(NamedTuple):
    """Seconds since boot, summed over all CPUs (source: /proc/stat, resolution one tick)."""

    user: float  # with nice; guests are counted in it
    system: float
    softirq: float  # with hard interrupts: on loopback the receiving half of TCP runs here
    steal: float  # taken by the hypervisor
    idle: float  # with iowait


def available_memory() -> int:
    """MemAvailable of /proc/meminfo, in bytes."""
    with Path("/proc/meminfo").open() as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def slab_bytes() -> int | None:
    """Slab of /proc/meminfo: what the kernel's object caches take, on the whole host."""
    with Path("/proc/meminfo").open() as lines:
        for line in lines:
            if line.startswith("Slab:"):
                return int(line.split()[1]) * 1024
    return None


def cpu_times() -> CpuTimes:
    """A snapshot; two of them give `utilisation`."""
    with Path("/proc/stat").open() as lines:
        ticks = [int(field) * _TICK_S for field in next(lines).split()[1:9]]
    user, nice, system, idle, iowait, irq, softirq, steal = ticks
    return CpuTimes(user + nice, system, irq + softirq, steal, idle + iowait)


def utilisation(before: CpuTimes, after: CpuTimes) -> CpuTimes | None:
    """The share of each kind between two snapshots; they sum to 1. None: no tick passed between them."""
    # iowait may run backwards (proc(5)), and with it idle.
    spent = [max(0.0, late - early) for early, late in zip(before, after, strict=True)]
    total = sum(spent)
    return CpuTimes(*(part / total for part in spent)) if total else None
