"""Who else uses the CPU while something is measured: a figure taken on a busy machine is of that machine."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from connprobe.model.bout import Others

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# The kernel's threads work for whoever is measured: softirqs, for one. A container does not see them, and has
# an ordinary process of that pid.
KTHREADD = 2
SHOWN = 5
LEAST_CPUS = 0.01  # less is not worth a name


class Spent(NamedTuple):
    """One process: began tells a pid used again apart."""

    name: str
    parent: int
    began: int
    cpu_s: float


def spent() -> dict[int, Spent]:
    """Every process that may be read (source: /proc/PID/stat)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
        found[int(entry.name)] = Spent(head.partition("(")[2], int(fields[1]), int(fields[19]), cpu_s)
    return found


def others(
    before: Mapping[int, Spent], after: Mapping[int, Spent], ours: Iterable[int], elapsed_s: float
) -> Others:
    """What all took between two snapshots but `ours`, what those forked, and the kernel's threads.

    Processes that came and went in between are not seen.
    """
    used: dict[int, float] = {}
    known = set(ours)
    if (kernel := after.get(KTHREADD)) is not None and (kernel.name, kernel.parent) == ("kthreadd", 0):
        known.add(KTHREADD)
    for pid, it in after.items():
        if _belongs(pid, after, known):
            continue
        earlier = before.get(pid)
        same = earlier is not None and earlier.began == it.began
        used[pid] = it.cpu_s - (earlier.cpu_s if same and earlier is not None else 0.0)
    busiest = sorted(used, key=lambda pid: -used[pid])
    elapsed_s = max(elapsed_s, _TICK_S)
    return Others(
        cpus=round(sum(used.values()) / elapsed_s, 3),
        who=tuple(
            f"{after[pid].name} ({pid}) {used[pid] / elapsed_s:.2f}"
            for pid in busiest[:SHOWN]
            if used[pid] / elapsed_s >= LEAST_CPUS
        ),
    )


def _belongs(pid: int, all_of_them: Mapping[int, Spent], known: set[int]) -> bool:
    seen: set[int] = set()
    while pid not in known:
        it = all_of_them.get(pid)
        if it is None or pid in seen:
            return False
        seen.add(pid)
        pid = it.parent
    return True
