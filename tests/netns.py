"""A network namespace for the length of a `with` block, entered by the test's own process."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.unshare and os.setns come with Python 3.12


@contextmanager
def network_namespace() -> Iterator[None]:
    """An empty one, with lo down. They nest. Skips the test where there is none to be had."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make a network namespace: sudo .venv/bin/pytest")
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}: run with CAP_SYS_ADMIN")
        try:
            yield
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                os._exit(70)  # whatever ran next would run in the wrong namespace
    finally:
        os.close(home)
