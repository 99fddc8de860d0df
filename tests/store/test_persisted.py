import stat
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.store.persisted import Entry, persist, remove_persisted

DATA = b"net.core.somaxconn = 16384\n"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "sysctl.d" / "90-connprobe-gigabit.conf"


def written(target: Path) -> Entry:
    entries: list[Entry] = []
    assert persist(target, DATA, entries.append)
    (entry,) = entries
    return entry


@pytest.mark.usefixtures("umask")
def test_it_is_whole_readable_by_all_and_writable_by_us_alone(target: Path) -> None:
    entry = written(target)
    assert target.read_bytes() == DATA
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert list(target.parent.iterdir()) == [target]
    assert remove_persisted(entry).removed == (str(target),)
    assert list(target.parent.iterdir()) == []
    assert remove_persisted(entry) == ((), (), ())


def test_the_undo_entry_comes_first(target: Path) -> None:
    def record(entry: Entry) -> None:
        assert list(target.parent.iterdir()) == []

    persist(target, DATA, record)


def test_a_planted_link_is_neither_followed_nor_replaced(target: Path, tmp_path: Path) -> None:
    target.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target.symlink_to(victim)
    with pytest.raises(RunFailed, match="there already"):
        persist(target, DATA, lambda entry: None)
    assert victim.read_text() == "precious"
    assert target.is_symlink()


@pytest.mark.parametrize("content", [b"somebody's\n", b""])
def test_another_file_of_that_name_stays(target: Path, content: bytes) -> None:
    target.parent.mkdir()
    target.write_bytes(content)
    with pytest.raises(RunFailed, match="there already") as caught:
        persist(target, DATA, lambda entry: None)
    assert caught.value.fix == f"sudo rm {target}"
    assert target.read_bytes() == content


def test_the_same_file_again_is_not_ours_to_remove(target: Path) -> None:
    written(target)
    assert not persist(target, DATA, lambda entry: pytest.fail("an entry for what was not written"))


def test_it_stays_where_somebody_changed_it(target: Path) -> None:
    entry = written(target)
    target.write_bytes(DATA + b"net.core.rmem_max = 1\n")
    assert remove_persisted(entry).kept == (f"{target}: somebody changed it",)
    assert target.exists()
    target.unlink()
    target.symlink_to("/etc/hostname")
    assert remove_persisted(entry).pending
    assert target.is_symlink()


def test_what_a_killed_run_had_half_written_goes(target: Path) -> None:
    entries: list[Entry] = []
    target.parent.mkdir()

    def killed(entry: Entry) -> None:
        entries.append(entry)
        (target.parent / str(entry["temporary"])).write_bytes(DATA[:5])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        persist(target, DATA, killed)
    assert remove_persisted(entries[0]) == ((), (), ())
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_is_an_error(tiny: Path) -> None:
    with pytest.raises(RunFailed, match="No space left"):
        persist(tiny / "x.conf", b"#" * 200_003, lambda entry: None)
