"""What connprobe itself takes: memory and CPU of its own processes, so that a run can state its overhead."""

from collections.abc import Iterable

import psutil

from connprobe.observe.smaps import read_rollup


def pss_of(pids: Iterable[int]) -> int | None:
    """Bytes of PSS summed over `pids` (source: /proc/PID/smaps_rollup); processes that exited count nothing.

    Shared pages count once over all processes that map them, so forked workers are summed without double
    counting. None: one may not be read, or none is left.
    """
    found = []
    for pid in pids:
        try:
            found.append(read_rollup(pid).pss_bytes)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            return None
    return sum(found) if found else None


def cpu_split(pids: Iterable[int]) -> dict[int, tuple[float, float]]:
    """(user, system) CPU seconds of each that is alive and may be read (source: /proc/PID/stat)."""
    found = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        found[pid] = (times.user, times.system)
    return found


def reaped_user(pid: int) -> float:
    """User CPU seconds of the children that `pid` has waited for (source: /proc/PID/stat); 0: it is gone."""
    try:
        return float(psutil.Process(pid).cpu_times().children_user)
    except psutil.NoSuchProcess:
        return 0.0


def cpu_of(pids: Iterable[int]) -> float:
    """CPU seconds (user and system) of `pids` and of the children each has waited for (/proc/PID/stat).

    A worker that exits moves from its own figure into its parent's once the parent has waited for it: with
    the parent among `pids` the sum never falls. Resolution: one clock tick, 10 ms.
    """
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return round(total, 2)  # regrouped, a sum of floats could fall by its last bit
