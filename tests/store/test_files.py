import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from connprobe.store import files


@pytest.fixture
def held(tmp_path: Path) -> Iterator[int]:
    with files.directory(tmp_path) as fd:
        yield fd


def test_replacing(tmp_path: Path, held: int) -> None:
    for data in (b"one", b"", b"x" * 100_003):
        files.replace_file("run.json", data, held)
        assert (tmp_path / "run.json").read_bytes() == data
        assert list(tmp_path.iterdir()) == [tmp_path / "run.json"]


@pytest.mark.parametrize("aim", ["victim", "nowhere"])
def test_a_planted_link_is_replaced_and_its_aim_untouched(aim: str, tmp_path: Path, held: int) -> None:
    (tmp_path / "victim").write_text("precious", encoding="ascii")
    (tmp_path / "run.json").symlink_to(tmp_path / aim)
    files.replace_file("run.json", b"{}", held)
    assert not (tmp_path / "run.json").is_symlink()
    assert (tmp_path / "victim").read_text(encoding="ascii") == "precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("aim", ["victim", "nowhere"])
def test_a_new_file_is_never_made_through_a_planted_link(aim: str, tmp_path: Path, held: int) -> None:
    (tmp_path / "victim").touch()
    (tmp_path / "samples.jsonl").symlink_to(tmp_path / aim)
    with pytest.raises(FileExistsError):
        files.create_file("samples.jsonl", held)
    assert not (tmp_path / "nowhere").exists()


def test_a_link_is_not_opened_as_a_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    os.close(files.open_directory(tmp_path / "real"))
    with pytest.raises(OSError, match=r"link") as caught:
        files.open_directory(tmp_path / "link")
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


def test_nothing_is_writable_for_others_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    place = tmp_path / "a" / "b"
    files.make_directories(place)
    with files.directory(place) as fd:
        os.close(files.create_file("new", fd))
        os.close(files.create_file("wide", fd, mode=0o666))
        files.replace_file("replaced", b"", fd)
    for path, most in ((place, 0o755), (place.parent, 0o755)):
        assert stat.S_IMODE(path.stat().st_mode) == most & ~umask
    for name in ("new", "wide", "replaced"):
        assert stat.S_IMODE((place / name).stat().st_mode) == 0o644 & ~umask


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tiny: Path) -> None:
    with files.directory(tiny) as fd:
        files.replace_file("run.json", b"old", fd)
        with pytest.raises(OSError, match="No space left"):
            files.replace_file("run.json", b"x" * 100_003, fd)
    assert list(tiny.iterdir()) == [tiny / "run.json"]
    assert (tiny / "run.json").read_bytes() == b"old"


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"seventeen bytes..")
    (tmp_path / "link").symlink_to(path)
    assert files.read_file(path) == files.read_file(tmp_path / "link") == b"seventeen bytes.."
    assert files.read_file(path, most=17) == b"seventeen bytes.."
    with pytest.raises(OSError, match=r"larger than 16"):
        files.read_file(path, most=16)
    with pytest.raises(OSError, match=r"link"):
        files.read_file(tmp_path / "link", follow=False)


def test_a_fifo_or_a_device_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match=r"regular"):
            files.read_file(path)


def test_a_private_directory_is_made_and_accepted_again(tmp_path: Path, umask: int) -> None:
    for _ in range(2):
        assert files.private_directory(tmp_path / "own") == tmp_path / "own"
        assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700 & ~umask


@pytest.mark.root
def test_a_directory_that_is_not_ours_alone_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make another user's directory: sudo .venv/bin/pytest")
    for name, owner, mode in (("open", 0, 0o755), ("group", 0, 0o710), ("theirs", 65534, 0o700)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        os.chown(tmp_path / name, owner, -1)
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "file").touch()
    for name in ("open", "group", "theirs", "link", "file"):
        with pytest.raises(OSError, match=name):
            files.private_directory(tmp_path / name)
