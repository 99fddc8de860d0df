"""Whether the kernel keeps up with receiving: packets it dropped before any socket saw them, and the CPU
time of its softirqs. On loopback all packets pass here too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_WRAP = 1 << 32  # the counters are unsigned ints
_CPU_INDEX = 12  # since Linux 5.10; before, rows are of online CPUs in order


class SoftnetCounts(NamedTuple):
    """Of one CPU. processed: packets. dropped: its backlog (net.core.netdev_max_backlog) was full.

    time_squeeze: how often NET_RX ended with work left (net.core.netdev_budget and netdev_budget_usecs).
    """

    processed: int
    dropped: int
    time_squeeze: int


class SoftirqShare(NamedTuple):
    """Part of the time that went into softirqs, 0 to 1: over all CPUs, and on the busiest of them.

    One CPU near 1.0 bounds receiving, however idle the others are.
    """

    mean: float
    busiest: float
    busiest_cpu: int


def read_softnet() -> dict[int, SoftnetCounts]:
    """By CPU, since boot (source: /proc/net/softnet_stat). OSError."""
    return parse_softnet(Path("/proc/net/softnet_stat").read_text())


def parse_softnet(text: str) -> dict[int, SoftnetCounts]:
    """Rows of hexadecimal numbers; one that is not, or is too short, is left out."""
    found = {}
    for row, line in enumerate(text.splitlines()):
        try:
            fields = [int(word, 16) for word in line.split()]
        except ValueError:
            continue
        if len(fields) >= 3 and min(fields) >= 0:
            found[fields[_CPU_INDEX] if len(fields) > _CPU_INDEX else row] = SoftnetCounts(*fields[:3])
    return found


def softnet_delta(
    before: Mapping[int, SoftnetCounts], after: Mapping[int, SoftnetCounts]
) -> SoftnetCounts | None:
    """Summed over the CPUs of both readings. None: there are none. Their 32 bits may have run over once."""
    cpus = before.keys() & after.keys()
    if not cpus:
        return None
    grown = [[(b - a) % _WRAP for a, b in zip(before[cpu], after[cpu], strict=True)] for cpu in cpus]
    return SoftnetCounts(*map(sum, zip(*grown, strict=True)))


def read_cpu_ticks() -> dict[int, tuple[int, int]]:
    """By CPU: (ticks in softirqs, ticks in all), since boot (source: /proc/stat). OSError."""
    return parse_cpu_ticks(Path("/proc/stat").read_text())


def parse_cpu_ticks(text: str) -> dict[int, tuple[int, int]]:
    """The lines cpu0, cpu1 ... of /proc/stat: user nice system idle iowait irq softirq steal, then guests,
    whose time is in user and nice already.
    """
    found = {}
    for line in text.splitlines():
        name, *words = line.split()[:9] or [""]
        number = name.removeprefix("cpu")
        if name.startswith("cpu") and number.isdecimal() and len(words) >= 7 and all(map(_is_count, words)):
            ticks = [int(word) for word in words]
            found[int(number)] = ticks[6], sum(ticks)
    return found


def softirq_share(
    before: Mapping[int, tuple[int, int]], after: Mapping[int, tuple[int, int]]
) -> SoftirqShare | None:
    """None: no tick passed. A CPU whose columns ran backwards (iowait may, proc(5)) is left out."""
    spent = {}
    for cpu in before.keys() & after.keys():
        soft, total = after[cpu][0] - before[cpu][0], after[cpu][1] - before[cpu][1]
        if total > 0 and 0 <= soft <= total:
            spent[cpu] = soft, total
    if not spent:
        return None
    busiest = max(spent, key=lambda cpu: (spent[cpu][0] / spent[cpu][1], -cpu))
    mean = sum(soft for soft, _ in spent.values()) / sum(total for _, total in spent.values())
    return SoftirqShare(mean, spent[busiest][0] / spent[busiest][1], busiest)


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdecimal()
