import os
from pathlib import Path, PurePosixPath

import pytest

from connprobe import cgroup
from connprobe.cgroup import Hierarchy

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 master:1 - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
39 31 0:36 /docker/abc /sys/fs/cgroup/pids ro,relatime - cgroup cgroup rw,pids
40 31 0:37 / /mnt/a\040b rw - cgroup2 cgroup2 rw,nsdelegate
41 31 0:38 / /mnt/second rw - cgroup2 cgroup2 rw
42 31
"""


def test_hierarchies() -> None:
    found = cgroup.parse_hierarchies(MOUNTS)
    assert found["memory"] == Hierarchy(PurePosixPath("/sys/fs/cgroup/memory"), PurePosixPath("/"))
    assert found["pids"] == Hierarchy(PurePosixPath("/sys/fs/cgroup/pids"), PurePosixPath("/docker/abc"))
    assert found[""].mount == PurePosixPath("/mnt/a b")
    assert found["cpu"] == found["cpuacct"]


def test_memberships() -> None:
    text = "9:name=systemd:/x\n4:cpu,cpuacct:/a:b\n0::/user.slice/with:colon\n\njunk\n"
    assert cgroup.parse_memberships(text) == {
        "name=systemd": "/x",
        "cpu": "/a:b",
        "cpuacct": "/a:b",
        "": "/user.slice/with:colon",
    }


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("/", "/a/b", ["/m/a/b", "/m/a", "/m"]),
        ("/", "/", ["/m"]),
        ("/docker/abc", "/docker/abc", ["/m"]),
        ("/docker/abc", "/docker/abc/in", ["/m/in", "/m"]),
        ("/docker/abc", "/docker/abcdef", ["/m"]),
        ("/", "/../other", ["/m"]),
    ],
)
def test_own_cgroup_and_its_ancestors(root: str, path: str, expected: list[str]) -> None:
    hierarchy = Hierarchy(PurePosixPath("/m"), PurePosixPath(root))
    assert [str(each) for each in cgroup.directories(hierarchy, path)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max\n", None),
        ("9223372036854771712\n", None),  # v1, 4 kB pages
        ("9223372036854710272\n", None),  # v1, 64 kB pages
        ("1073741824\n", 1 << 30),
        ("0\n", 0),
        ("", None),
        ("-1\n", None),
    ],
)
def test_limit_files(text: str, expected: int | None) -> None:
    assert cgroup.parse_limit(text) == expected


def _pids_directory() -> Path:
    memberships = cgroup.parse_memberships(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
    hierarchies = cgroup.parse_hierarchies(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    name = "pids" if "pids" in memberships else ""
    if os.geteuid() != 0 or name not in hierarchies:
        pytest.skip("needs root and a pids cgroup: sudo .venv/bin/pytest")
    return next(cgroup.directories(hierarchies[name], memberships[name]))


@pytest.mark.root
def test_the_limit_of_an_ancestor_counts_until_a_tighter_one_is_set() -> None:

    home = _pids_directory()
    parent = home / f"connprobe-test-{os.getpid()}"
    child = parent / "child"
    try:
        parent.mkdir()
        child.mkdir()
        if not (child / "pids.max").exists():
            pytest.skip(f"no pids controller in {parent}: echo +pids > {home}/cgroup.subtree_control")
        (parent / "pids.max").write_text("1009", encoding="ascii")
        (child / "pids.max").write_text("max", encoding="ascii")
        (child / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        bound = cgroup.tightest("pids")
        assert bound is not None
        assert bound.limit == 1009
        assert bound.used >= 1
        (child / "pids.max").write_text("503", encoding="ascii")
        bound = cgroup.tightest("pids")
        assert bound is not None
        assert bound.limit == 503
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        for made in (child, parent):
            if made.exists():
                made.rmdir()
