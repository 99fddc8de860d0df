"""Memory cgroups: v2 as trees of files, in which its kernel's figures are written down; v1 for real."""

import os
import re
from pathlib import Path, PurePosixPath

import pytest

from cgroupv1 import v1_cgroup
from connprobe.cgroup import Hierarchy, Place, bounds, places_in
from connprobe.observe.cgroupmemory import taken, tightest_memory, tightest_of

MB = 1 << 20


def _group(path: Path, current: int, **files: object) -> Path:
    """A v2 cgroup with 30 MB of page cache, and slabs that are called reclaimable."""
    path.mkdir(parents=True, exist_ok=True)
    stat = {
        "anon": 5 * MB,
        "shmem": MB,
        "slab_reclaimable": 7 * MB,
        "inactive_file": 20 * MB,
        "active_file": 10 * MB,
    }
    (path / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))
    (path / "memory.current").write_text(f"{current}\n")
    for name, value in files.items():
        (path / f"memory.{name.replace('_', '.')}").write_text(f"{value}\n")
    return path


def _places(root: Path, of: str) -> list[Place]:
    return places_in("memory", {"": of}, {"": Hierarchy(PurePosixPath(root), PurePosixPath("/"))})


def test_page_cache_is_not_taken_but_slabs_of_sockets_are(tmp_path: Path) -> None:
    _group(tmp_path / "a", 50 * MB, max=64 * MB)
    bound = tightest_of(_places(tmp_path, "/a"), 0)
    assert bound is not None
    assert (bound.capacity_bytes, bound.taken_bytes, bound.throttled) == (64 * MB, 20 * MB, False)
    assert (bound.place.name, bound.file) == ("/a", tmp_path / "a/memory.max")


def test_the_ancestor_with_the_least_left_binds(tmp_path: Path) -> None:
    _group(tmp_path / "a", 200 * MB, max=210 * MB)  # 40 MB left
    _group(tmp_path / "a/b", 50 * MB, max=100 * MB)  # 80 MB left
    _group(tmp_path / "a/b/c", 40 * MB, max="max")
    bound = tightest_of(_places(tmp_path, "/a/b/c"), 0)
    assert bound is not None
    assert (bound.place.name, bound.limit_bytes) == ("/a", 210 * MB)
    assert [each.place.name for each in bounds("memory", _places(tmp_path, "/a/b/c"))] == ["/a/b", "/a"]


def test_high_binds_where_it_is_lower(tmp_path: Path) -> None:
    _group(tmp_path / "a", 50 * MB, max=100 * MB, high=80 * MB)
    _group(tmp_path / "b", 50 * MB, max=100 * MB, high="max")
    _group(tmp_path / "c", 50 * MB, max="max", high=70 * MB)
    found = [tightest_of(_places(tmp_path, name), 0) for name in ("/a", "/b", "/c")]
    assert [(each.limit_bytes, each.throttled) for each in found if each] == [
        (80 * MB, True),
        (100 * MB, False),
        (70 * MB, True),
    ]


@pytest.mark.parametrize(
    ("swap_max", "free", "swap"),
    [("max", 40 * MB, 43 * MB), (10 * MB, 40 * MB, 10 * MB), (0, 40 * MB, 0), ("max", 0, 3 * MB)],
)
def test_swap_is_room_as_far_as_it_goes(tmp_path: Path, swap_max: object, free: int, swap: int) -> None:
    _group(tmp_path / "a", 50 * MB, max=64 * MB, swap_current=3 * MB, swap_max=swap_max)
    bound = tightest_of(_places(tmp_path, "/a"), free)
    assert bound is not None
    assert (bound.swap_bytes, bound.capacity_bytes) == (swap, 64 * MB + swap)
    assert bound.taken_bytes == 23 * MB


def test_what_cannot_be_read_is_no_bound(tmp_path: Path) -> None:
    path = _group(tmp_path / "a", 50 * MB, max=64 * MB)
    (path / "memory.stat").unlink()
    assert tightest_of(_places(tmp_path, "/a"), 0) is None
    assert taken(Place(path, "/a", 2)) is None
    assert tightest_of(_places(tmp_path, "/not/there"), 0) is None


def test_v1_swap_is_what_memsw_leaves(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text(
        f"total_inactive_file {4 * MB}\ntotal_active_file {MB}\ntotal_swap {MB}\n"
    )
    (tmp_path / "memory.usage_in_bytes").write_text(str(15 * MB))
    (tmp_path / "memory.limit_in_bytes").write_text(str(64 * MB))
    place = Place(tmp_path, "/", 1)
    unlimited, free = tightest_of([place], 30 * MB), (tmp_path / "memory.memsw.limit_in_bytes")
    free.write_text(str(72 * MB))
    limited = tightest_of([place], 30 * MB)
    assert unlimited is not None
    assert limited is not None
    assert (unlimited.capacity_bytes, limited.capacity_bytes) == (95 * MB, 72 * MB)
    assert limited.taken_bytes == 11 * MB


def test_what_is_taken_in_advance_is_not_taken(tmp_path: Path) -> None:
    v2, v1 = _group(tmp_path / "v2", 50 * MB, max=64 * MB, swap_current=2 * MB), tmp_path / "v1"
    with (v2 / "memory.stat").open("a") as stat:
        stat.write(f"kernel {3 * MB}\nsock {MB}\n")
    assert taken(Place(v2, "/v2", 2)) == 12 * MB
    v1.mkdir()
    (v1 / "memory.stat").write_text(f"total_rss {5 * MB}\ntotal_shmem {MB}\ntotal_swap {MB}\n")
    (v1 / "memory.usage_in_bytes").write_text(str(50 * MB))
    (v1 / "memory.kmem.usage_in_bytes").write_text(str(3 * MB))
    assert taken(Place(v1, "/v1", 1)) == 10 * MB


@pytest.mark.root
def test_a_real_cgroup_with_a_file_in_its_cache(tmp_path: Path) -> None:
    """30 MB of a file are read, 20 MB are allocated: only these are taken."""
    file = tmp_path / "large"
    with v1_cgroup("memory") as group:
        (group / "memory.limit_in_bytes").write_text(str(96 * MB))
        us, child = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            file.write_bytes(b"x" * (30 * MB))
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            while os.read(descriptor, MB):
                pass
            block = bytearray(20 * MB)
            block[::4096] = b"x" * len(block[::4096])
            os.write(us[1], b"x")
            os.read(child[0], 1)
            os._exit(0)
        os.read(us[0], 1)
        try:
            bound = tightest_memory(pid)
            stat = (group / "memory.stat").read_text()
            usage = int((group / "memory.usage_in_bytes").read_text())
        finally:
            os.write(child[1], b"x")
            os.waitpid(pid, 0)
            for descriptor in (*us, *child):
                os.close(descriptor)
        cached = sum(
            int(each) for each in re.findall(r"^total_(?:in)?active_file (\d+)$", stat, re.MULTILINE)
        )
        if cached < 30 * MB:
            pytest.skip(f"{tmp_path} is in memory: pytest --basetemp with a directory on a disk")
        assert bound is not None
        assert bound.place.directory == group
        assert bound.limit_bytes == 96 * MB
        assert usage >= 50 * MB
        assert 20 * MB <= bound.taken_bytes < 27 * MB
        assert tightest_memory(os.getpid()) is None or tightest_memory(os.getpid()) != bound
