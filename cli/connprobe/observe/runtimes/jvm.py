"""The JVM (HotSpot): the bytes of live objects after a full collection, and MaxHeapSize, both by jcmd."""

import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from connprobe.model import Ceiling
from connprobe.observe.procfs import read_text
from connprobe.observe.runtimes.interface import TIMEOUT_S, HeapReading, HeapUnknown
from connprobe.observe.runtimes.listening import listening

MiB = 1 << 20
MOST_BYTES: Final = 16 * MiB  # a histogram has a line for each class
INSTALL: Final = "jcmd is not installed: apt-get install openjdk-17-jdk-headless"
SURVIVOR_RATIO: Final = 8  # of eden to one survivor space, unless a flag says otherwise


class Limits(NamedTuple):
    """Of one heap. early_bytes: from where on it may give up, where that is not its capacity."""

    capacity_bytes: int
    early_bytes: int | None
    collector: str | None


class Jvm:
    """The heap that is fullest, of those of a server's JVMs: each has a limit of its own."""

    def __init__(self, pids: Sequence[int]) -> None:
        """Raises HeapUnknown where jcmd cannot ask them."""
        until = time.monotonic() + TIMEOUT_S
        self._pids = sorted(listening(pids) & set(pids) or pids)
        self._limits = {pid: read_limits(_ask(pid, "VM.flags", until=until)) for pid in self._pids}
        self._fullest = min(self._pids, key=lambda pid: self._limits[pid].capacity_bytes)
        version = re.search(r"^JDK (\d{1,3})\b", _ask(self._fullest, "VM.version", until=until), re.MULTILINE)
        collector = self._limits[self._fullest].collector
        self.name = f"JVM {version[1] if version else ''}".strip() + (f" ({collector})" if collector else "")

    def heap(self) -> HeapReading:
        until = time.monotonic() + TIMEOUT_S
        live = {pid: read_live_bytes(_ask(pid, "GC.class_histogram", until=until)) for pid in self._pids}
        self._fullest = max(live, key=lambda pid: live[pid] / self._limits[pid].capacity_bytes)
        capacity, early, _ = self._limits[self._fullest]
        return HeapReading(live[self._fullest], capacity, early)

    def ceilings(self) -> list[Ceiling]:
        """Of the heap that was fullest at the last reading."""
        capacity, early, _ = self._limits[self._fullest]
        notes = []
        if len(self._pids) > 1:
            notes.append(
                f"of each of {len(self._pids)} processes: it is reached when the fullest of them is full"
            )
        if early is not None:
            notes.append(f"this collector may give up from {early:,} bytes on, its old generation")
        return [
            Ceiling(
                resource="heap",
                scope=f"server (pid {self._fullest})",
                capacity=capacity,
                source="MaxHeapSize, by jcmd VM.flags",
                fix=f"java -Xmx{2 * max(capacity // MiB, 1)}m, or JAVA_TOOL_OPTIONS, where memory allows",
                metric="heap_bytes",
                unit="bytes",
                exact=False,
                note="; ".join(notes) or None,
            )
        ]

    def unread(self) -> str | None:
        return None  # a JVM's threads share its heap

    def close(self) -> None:
        """Nothing stays open between readings."""


def read_limits(flags: str) -> Limits:
    """From `jcmd VM.flags`. Raises HeapUnknown.

    Serial and Parallel keep one survivor space empty. Parallel does not always use all of eden before it
    gives up; its old generation it does.
    """
    sizes = {name: int(size) for name, size in re.findall(r"-XX:(\w+)=(\d{1,18})(?=\s|$)", flags)}
    capacity = sizes.get("MaxHeapSize", 0)
    if not capacity:
        raise HeapUnknown("jcmd tells no MaxHeapSize: this is no HotSpot JVM")
    found = re.search(r"-XX:\+Use(G1|Serial|Parallel|Z|Shenandoah|Epsilon)GC\b", flags)
    collector = found[1] if found else None
    young = sizes.get("MaxNewSize", 0)
    early = None
    if collector in ("Serial", "Parallel") and young < capacity:
        if collector == "Parallel":
            early = capacity - young
        capacity -= young // (sizes.get("SurvivorRatio", SURVIVOR_RATIO) + 2)
    return Limits(capacity, early, collector)


def read_live_bytes(histogram: str) -> int:
    """From `jcmd GC.class_histogram`, which collects before it counts. Raises HeapUnknown."""
    total = re.search(r"^Total +\d+ +(\d{1,18})\s*$", histogram, re.MULTILINE)
    if total is None:
        raise HeapUnknown("jcmd gave no histogram of the heap: this is no HotSpot JVM")
    return int(total[1])


def _ask(pid: int, command: str, *, until: float) -> str:
    """What jcmd says, run as the user whose process it is: a JVM answers nobody else. Raises HeapUnknown."""
    try:
        status = read_text(pid, "status")
        caught = re.search(r"^SigCgt:\t([0-9a-f]+)$", status, re.MULTILINE)
        uid, gid = (
            int(re.findall(rf"^{name}:\t\d+\t(\d+)", status, re.MULTILINE)[0]) for name in ("Uid", "Gid")
        )
        beside = Path(f"/proc/{pid}/exe").readlink().with_name("jcmd")
    except (OSError, IndexError) as error:
        raise HeapUnknown(f"process {pid} ended, or it is another user's: run as root") from error
    if caught is None or not int(caught[1], 16) >> (signal.SIGQUIT - 1) & 1:
        raise HeapUnknown(
            f"process {pid} cannot be attached to: start it without -Xrs"
        )  # it would die of SIGQUIT
    jcmd = shutil.which("jcmd") or (str(beside) if beside.is_file() else None)
    if jcmd is None:
        raise HeapUnknown(INSTALL)
    other = uid != os.geteuid()
    try:
        process = subprocess.Popen(
            [jcmd, str(pid), command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            user=uid if other else None,
            group=gid if other else None,
            extra_groups=[] if other else None,
        )
    except PermissionError as error:
        raise HeapUnknown(f"process {pid} is another user's: run as root") from error
    with process:
        try:
            said = _read(process, pid, until)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    if process.returncode:
        raise HeapUnknown(
            f"process {pid} could not be asked by jcmd {command}: it ended, or it forbids attaching"
        )
    return said


def _read(process: "subprocess.Popen[bytes]", pid: int, until: float) -> str:
    """All of its output, once it has ended."""
    assert process.stdout is not None
    said = bytearray()
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise HeapUnknown(f"process {pid} did not collect its heap within {TIMEOUT_S:.0f} s")
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(until - time.monotonic(), 0.1))
            return said.decode(errors="replace")
        said += data
        if len(said) > MOST_BYTES:
            raise HeapUnknown(f"process {pid} told more than {MOST_BYTES // MiB} MB about its heap")
