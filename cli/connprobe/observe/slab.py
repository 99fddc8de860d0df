"""The kernel's own memory, read for plan/kernelmemory.py: slabs, page tables, per-CPU pages.

A reading takes some 20 ms, nearly all of it in /proc/slabinfo, which locks each slab in turn: it belongs
before the first connection and on the plateau, not in every second.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from connprobe.observe.sockstat import parse_sockstat
from connprobe.plan.kernelmemory import KernelMemory, Slab

_SLABINFO = Path("/proc/slabinfo")
_CACHES = Path("/sys/kernel/slab")
_LINE = re.compile(
    r"^(?P<name>\S.*?)\s+(?P<active>\d+)\s+\d+\s+\d+\s+(?P<objects>\d+)\s+(?P<pages>\d+)\s*:\s*tunables\b.*"
    r":\s*slabdata\s+\d+\s+(?P<slabs>\d+)\s"
)
_FIX = "run as root, or with CAP_DAC_READ_SEARCH"


class ZonePages(NamedTuple):
    """Pages: free ones that CPUs keep for themselves, and the low watermarks, each summed over all zones."""

    kept_by_cpus: int
    low: int


def read_kernel_memory() -> KernelMemory:
    """One reading of everything there is to read. OSError: not even /proc/meminfo."""
    page = os.sysconf("SC_PAGE_SIZE")
    slabs, reason, fix = _slabs()
    names = _names(slabs) if slabs is not None else None
    if slabs is not None and names is None:
        reason, fix = (
            f"{_CACHES} cannot be listed: merged slabs are not told apart",
            "mount -t sysfs sysfs /sys",
        )
    zones = _zones()
    # Right after the slabs, which take longest: what other processes do meanwhile is in neither or in both.
    meminfo = parse_meminfo(Path("/proc/meminfo").read_text())
    return KernelMemory(
        page_bytes=page,
        meminfo=meminfo,
        slabs=slabs,
        names=names,
        socket_bytes=_socket_bytes(page),
        percpu_free_bytes=zones.kept_by_cpus * page if zones else None,
        low_bytes=zones.low * page if zones else None,
        reason=reason,
        fix=fix,
    )


def parse_slabinfo(text: str) -> dict[str, Slab]:
    """/proc/slabinfo, version 2 (since Linux 2.6.10). ValueError: nothing in it can be understood.

    `slabs` counts those that exist, empty ones of the old SLAB allocator among them: their pages are taken.
    """
    found = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.match(line + " ")
        if match:
            found[match["name"]] = Slab(
                int(match["active"]), int(match["objects"]), int(match["pages"]), int(match["slabs"])
            )
    if not found:
        raise ValueError("no line of /proc/slabinfo has the form of version 2")
    return found


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo in bytes; lines that count something else (HugePages_Total) are left out."""
    pairs = re.findall(r"^(\S+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(value) * 1024 for name, value in pairs}


def parse_zoneinfo(text: str) -> ZonePages | None:
    """/proc/zoneinfo. None: it names no watermark."""
    low = re.findall(r"^\s+low\s+(\d+)$", text, re.MULTILINE)
    kept = re.findall(r"^\s+count:\s+(\d+)$", text, re.MULTILINE)
    return ZonePages(sum(map(int, kept)), sum(map(int, low))) if low else None


def merged_names(links: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """For each cache of /sys/kernel/slab, all that share its slab, itself among them.

    links: cache -> what its symbolic link names (":A-0000128"). One without a link shares with nobody.
    """
    sharing: dict[str, list[str]] = {}
    for name, target in links.items():
        sharing.setdefault(target.rpartition("/")[2], []).append(name)
    return {name: tuple(sorted(names)) for names in sharing.values() for name in names}


def _slabs() -> tuple[dict[str, Slab] | None, str | None, str | None]:
    """(slabs, why there are none, what helps)."""
    try:
        return parse_slabinfo(_SLABINFO.read_text(errors="replace")), None, None
    except PermissionError:
        return None, f"{_SLABINFO} may not be read", _FIX
    except FileNotFoundError:
        return None, f"there is no {_SLABINFO}", "a kernel with CONFIG_SLUB_DEBUG"
    except (OSError, ValueError) as error:
        return None, f"{_SLABINFO}: {error}", None


def _names(slabs: Mapping[str, Slab]) -> dict[str, tuple[str, ...]] | None:
    try:
        with os.scandir(_CACHES) as entries:
            links = {entry.name: str(Path(entry).readlink()) for entry in entries if entry.is_symlink()}
    except OSError:
        return None
    return {name: names for name, names in merged_names(links).items() if name in slabs}


def _zones() -> ZonePages | None:
    try:
        return parse_zoneinfo(Path("/proc/zoneinfo").read_text())
    except OSError:
        return None


def _socket_bytes(page: int) -> int | None:
    try:
        pages = parse_sockstat(Path("/proc/net/sockstat").read_text()).get("TCP", {}).get("mem")
    except OSError:
        return None
    return None if pages is None else pages * page
