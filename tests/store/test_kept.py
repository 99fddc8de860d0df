"""What is loaded into the kernel comes from files that nobody else can have written, or not at all."""

import os
from pathlib import Path

import pytest

from connprobe.store.kept import MOST_BYTES, MOST_FILES, Kept, cache_directory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: run as root (sudo)")


def test_what_is_put_is_got(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cache" / "connprobe")
    assert kept.get("a") is None
    assert not (tmp_path / "cache").exists()  # looking makes nothing
    kept.put("a", b"one")
    kept.put("a", b"two")
    assert kept.get("a") == b"two"
    assert kept.get("b") is None
    assert (tmp_path / "cache" / "connprobe").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "cache" / "connprobe" / "a").stat().st_mode & 0o777 == 0o600


def test_those_not_used_for_longest_go(tmp_path: Path) -> None:
    place = tmp_path / "kept"
    kept = Kept(place)
    for number in range(MOST_FILES):
        kept.put(f"{number}", b"x")
        os.utime(place / f"{number}", (number, number))
    assert kept.get("0") == b"x"  # which is used now
    (place / "directory").mkdir()
    kept.put("one more", b"x")
    os.utime(place / "directory", (0, 0))
    kept.put("and another", b"x")
    left = {path.name for path in place.iterdir()}
    assert {"0", "one more", "and another"} <= left
    assert {"1", "2"}.isdisjoint(left)
    assert len([name for name in left if name != "directory"]) <= MOST_FILES


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755])
def test_a_directory_that_others_may_enter(mode: int, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    kept.put("a", b"x")
    (tmp_path / "kept").chmod(mode)
    with pytest.raises(OSError, match="not a directory of ours alone"):
        kept.get("a")
    with pytest.raises(OSError, match="not a directory of ours alone"):
        kept.put("a", b"y")


@as_root
def test_a_directory_or_a_file_of_somebody_else(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    kept.put("a", b"x")
    os.chown(tmp_path / "kept" / "a", 65534, 65534)
    with pytest.raises(OSError, match="a is not ours alone to write"):
        kept.get("a")
    kept.put("a", b"y")  # takes its place
    assert kept.get("a") == b"y"
    os.chown(tmp_path / "kept", 65534, 65534)
    with pytest.raises(OSError, match="not a directory of ours alone"):
        kept.get("a")


def test_what_is_no_file_of_ours_alone(tmp_path: Path) -> None:
    place = tmp_path / "kept"
    kept = Kept(place)
    for name in ("writable", "linked", "large"):
        kept.put(name, b"x")
    (place / "writable").chmod(0o620)
    (tmp_path / "too").hardlink_to(place / "linked")
    os.truncate(place / "large", MOST_BYTES + 1)
    (place / "link").symlink_to(tmp_path / "too")
    os.mkfifo(place / "fifo")
    for name in ("writable", "linked", "large", "link", "fifo"):
        with pytest.raises(OSError, match=r"not ours alone|larger than|not a regular|symbolic links"):
            kept.get(name)


def test_a_link_is_no_directory(tmp_path: Path) -> None:
    Kept(tmp_path / "real").put("a", b"x")
    (tmp_path / "link").symlink_to("real")
    kept = Kept(tmp_path / "link")
    with pytest.raises(OSError, match="link"):
        kept.get("a")
    with pytest.raises(OSError, match="link"):
        kept.put("b", b"x")


def test_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    assert cache_directory() == Path("/var/cache/connprobe")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert cache_directory() == Path("/nowhere/connprobe")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/one")
    assert cache_directory() == Path("/home/one/.cache/connprobe")
    monkeypatch.delenv("HOME")
    assert cache_directory() is None
