"""Memory that is truly a process's own: PSS and USS, read in one place.

The kernel walks the page table for them, holding mmap_lock: the caller decides how often that is worth it.
"""

from pathlib import Path
from typing import NamedTuple


class Rollup(NamedTuple):
    """Bytes. PSS counts each shared page by its share, USS leaves shared pages out."""

    pss_bytes: int
    uss_bytes: int


def read_rollup(pid: int) -> Rollup:
    """From /proc/PID/smaps_rollup.

    PermissionError: another user's process. FileNotFoundError, ProcessLookupError: it has exited.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    if not lines:  # the process ends while its memory is walked
        raise ProcessLookupError(pid)
    kilobytes = {name: int(value) for name, value, *_ in map(str.split, lines)}
    private = sum(value for name, value in kilobytes.items() if name.startswith("Private_"))
    return Rollup(kilobytes["Pss:"] * 1024, private * 1024)
