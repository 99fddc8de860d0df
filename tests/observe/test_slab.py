"""The kernel's books as this kernel writes them, with sockets that the test makes; and as others do."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.observe.slab import (
    merged_names,
    parse_meminfo,
    parse_slabinfo,
    parse_zoneinfo,
    read_kernel_memory,
)
from connprobe.plan.kernelmemory import Slab

HEAD = "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> ...\n"
TUNABLES = ": tunables    0    0    0 : slabdata"


def readable() -> None:
    if not os.access("/proc/slabinfo", os.R_OK):
        pytest.skip("/proc/slabinfo is for root: sudo .venv/bin/pytest")


def test_sockets_are_found_in_the_slabs() -> None:
    readable()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        for _ in range(499):
            stack.enter_context(socket.create_connection(listener.getsockname()))
            stack.enter_context(listener.accept()[0])  # before, the server's end has no inode and no file
        held = read_kernel_memory()
    assert held.slabs is not None
    # Only that what exists is counted: others open and close sockets meanwhile, so growth is for tests/e2e.
    assert held.slabs["TCP"].active >= 2 * 499
    assert held.slabs["sock_inode_cache"].active >= 2 * 499
    assert held.meminfo["MemAvailable"] > 1 << 20
    assert held.socket_bytes is not None
    assert held.percpu_free_bytes is not None
    assert held.low_bytes
    assert held.reason is None


def test_all_slabs_together_are_slab_of_meminfo() -> None:
    """But for allocations too large for any slab, and for what is allocated between two files."""
    readable()
    for _ in range(7):  # a busy machine may be between two states
        reading = read_kernel_memory()
        assert reading.slabs is not None
        pages = sum(slab.slabs * slab.pages_per_slab for slab in reading.slabs.values())
        share = pages * reading.page_bytes / reading.meminfo["Slab"]
        if 0.9 < share <= 1.01:
            return
    pytest.fail(f"slabs are {share:.3f} of Slab")


def test_merged_slabs_are_resolved_as_sysfs_has_them() -> None:
    readable()
    links = Path("/sys/kernel/slab/eventpoll_epi")
    if not links.is_symlink():
        pytest.skip("this kernel merges no slabs: boot it without slab_nomerge")
    reading = read_kernel_memory()
    assert reading.names is not None
    (shown,) = [name for name, names in reading.names.items() if "eventpoll_epi" in names]
    assert Path("/sys/kernel/slab", shown).resolve() == links.resolve()


def test_without_privilege_it_says_why_and_what_helps() -> None:
    code = (
        "import json, os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from connprobe.observe.slab import read_kernel_memory\n"
        "if os.geteuid() == 0: os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "found = read_kernel_memory()\n"
        "print(json.dumps([found.slabs, found.names, found.reason, found.fix, found.meminfo['Slab']]))"
    )
    package = str(Path(__file__).parents[2] / "cli")
    ran = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    slabs, names, reason, fix, total = json.loads(ran.stdout)
    assert (slabs, names) == (None, None)
    assert reason == "/proc/slabinfo may not be read"
    assert fix == "run as root, or with CAP_DAC_READ_SEARCH"
    assert total > 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"TCP  78 130 2496 13 8 {TUNABLES} 10 10 0", {"TCP": Slab(78, 13, 8, 10)}),
        (f":0000128 1 32 128 32 1 {TUNABLES} 1 1 0", {":0000128": Slab(1, 32, 1, 1)}),
        (f"with space 1 2 3 4 5 {TUNABLES} 6 7 0", {"with space": Slab(1, 4, 5, 7)}),
        (  # the SLAB allocator, gone in 6.8, with its statistics
            "filp 5 6 192 20 1 : tunables 120 60 8 : slabdata 3 4 0 : globalstat 1 2 3 : cpustat 1 2 3 4",
            {"filp": Slab(5, 20, 1, 4)},
        ),
    ],
)
def test_lines_of_slabinfo(line: str, expected: dict[str, Slab]) -> None:
    assert parse_slabinfo(HEAD + line + "\n") == expected
    assert parse_slabinfo(HEAD + "broken 1 2\n" + line) == expected


@pytest.mark.parametrize("text", ["", HEAD, f"TCP x 130 2496 13 8 {TUNABLES} 10 10 0\n", "TCP 1 2 3\n"])
def test_a_text_without_one_good_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="version 2"):
        parse_slabinfo(text)


def test_meminfo() -> None:
    text = "MemFree:        123 kB\nHugePages_Total:       7\nActive(file):     5 kB\nOdd: x kB\n"
    assert parse_meminfo(text) == {"MemFree": 123 * 1024, "Active(file)": 5 * 1024}


def test_zoneinfo() -> None:
    zone = "Node 0, zone   Normal\n  pages free     9\n        low      23\n      nr_low 4\n"
    sets = "  pagesets\n    cpu: 0\n              count:    5\n              high:     6\n"
    cpu = "    cpu: 1\n              count: 7\n  vm stats threshold: 6\n"
    assert parse_zoneinfo((zone + sets + cpu) * 2) == (24, 46)
    assert parse_zoneinfo("nothing of the kind") is None


def test_names_that_share_a_slab() -> None:
    links = {"a": ":A-0000128", "b": "../slab/:A-0000128", "c": ":0000064"}
    assert merged_names(links) == {"a": ("a", "b"), "b": ("a", "b"), "c": ("c",)}


@given(st.text() | st.text(alphabet="ab 0123456789:\n²kB"))
def test_any_text_is_read_or_refused(text: str) -> None:
    parse_meminfo(text)
    parse_zoneinfo(text)
    with pytest.raises(ValueError, match="version 2"):
        parse_slabinfo(text)  # no text of this alphabet is a table
