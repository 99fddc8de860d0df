"""Entering the network namespace of another process, where sock_diag and BPF iterators show its sockets."""

import ctypes
import os
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.setns comes with Python 3.12


def is_foreign(pid: int) -> bool:
    """Whether `pid` is in another network namespace; one that may not be looked at is taken for ours."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino != Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        return False


def enter(pid: int) -> str | None:
    """Move this thread, and what it starts, into the network namespace of `pid`. None: done; else why not.

    There is no way back: for commands that look at nothing else.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return str(error.strerror)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            return os.strerror(ctypes.get_errno())
    finally:
        os.close(fd)
    return None
