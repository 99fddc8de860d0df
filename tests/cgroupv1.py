"""A cgroup of version 1 for the length of a `with` block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connprobe.cgroup import parse_hierarchies


@contextmanager
def v1_cgroup(controller: str) -> Iterator[Path]:
    """Its directory; empty of processes at the end. Skips the test where there is none to be had."""
    hierarchy = parse_hierarchies(Path("/proc/self/mountinfo").read_text()).get(controller)
    if hierarchy is None:
        pytest.skip(f"needs cgroup v1: mount -t cgroup -o {controller} none /sys/fs/cgroup/{controller}")
    path = Path(hierarchy.mount) / f"connprobe-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"{path}: {error.strerror}: run as root")
    try:
        yield path
    finally:
        path.rmdir()
