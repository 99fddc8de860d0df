"""Which processes of a server listen.

Descriptors are looked at one by one and only the first of them: /proc/PID/fd costs the kernel 0.9 kB for each
that it shows, and a server has one for every connection.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from connprobe.observe.sockdiag import ListenSocket, listen_sockets_from_proc

LOW_DESCRIPTORS: Final = 256  # what a process listens on was there before its connections


def listeners(pid: int) -> list[ListenSocket]:
    """All in the network namespace of a process; none if it has ended."""
    try:
        return listen_sockets_from_proc(pid=pid)
    except OSError:
        return []


def held(pid: int) -> set[int]:
    """Inodes of the sockets among the first descriptors of a process."""
    found = set()
    for descriptor in range(LOW_DESCRIPTORS):
        try:
            link = str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
        except OSError:
            continue
        match = re.fullmatch(r"socket:\[(\d+)\]", link)
        if match:
            found.add(int(match[1]))
    return found


def listening(pids: Iterable[int]) -> set[int]:
    """Those of `pids` that have a TCP socket in LISTEN among their first descriptors."""
    return {pid for pid in pids if held(pid) & {each.inode for each in listeners(pid)}}
