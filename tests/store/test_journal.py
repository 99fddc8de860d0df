import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import connprobe
from connprobe.errors import RunFailed
from connprobe.store.journal import Entry, Journal, UndoReport, settled_journals, stale_journals


def left_behind(directory: Path, *entries: Entry) -> Path:
    """The journal of a run that is dead: nobody holds its lock."""
    with Journal.create("hold", directory) as journal:
        for entry in entries:
            journal.record(entry)
    return journal.path


def only(directory: Path) -> Journal:
    (journal,) = stale_journals(directory)
    return journal


def undoing(seen: list[object]) -> Callable[[Entry], UndoReport]:
    def undo(entry: Entry) -> UndoReport:
        seen.append(entry["n"])
        return UndoReport(removed=(str(entry["n"]),))

    return undo


def test_an_entry_is_on_the_disk_when_record_returns(tmp_path: Path) -> None:
    with Journal.create("hold", tmp_path) as journal:
        assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
        for number in range(23):
            journal.record({"kind": "test", "n": number})
            lines = journal.path.read_text(encoding="utf-8").splitlines()
            assert [json.loads(line)["n"] for line in lines[1:]] == list(range(number + 1))
        assert [entry["n"] for entry in journal.entries] == list(range(23))


def test_the_journal_of_a_living_run_is_left_alone(tmp_path: Path) -> None:
    with Journal.create("hold", tmp_path):
        assert stale_journals(tmp_path) == []


def test_a_stale_journal_is_given_to_one_process_only(tmp_path: Path) -> None:
    left_behind(tmp_path, {"kind": "test"})
    with only(tmp_path):
        assert stale_journals(tmp_path) == []
    only(tmp_path).close()


def test_a_killed_owner_leaves_a_stale_journal(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from connprobe.store.journal import Journal
journal = Journal.create("hold", Path(sys.argv[1]))
journal.record({"kind": "test", "n": 7})
print(flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"\n"
        assert stale_journals(tmp_path) == []
        owner.kill()
    assert owner.returncode == -signal.SIGKILL
    with only(tmp_path) as journal:
        assert journal.entries == ({"kind": "test", "n": 7},)
        assert (journal.header.command, journal.header.pid) == ("hold", owner.pid)


def test_undoing_goes_backwards_and_removes_the_file(tmp_path: Path) -> None:
    left_behind(tmp_path, *({"kind": "test", "n": number} for number in range(5)))
    seen: list[object] = []
    report = only(tmp_path).undo({"test": undoing(seen)})
    assert seen == [4, 3, 2, 1, 0]
    assert report == UndoReport(removed=("4", "3", "2", "1", "0"))
    assert list(tmp_path.iterdir()) == []


def test_a_later_entry_with_the_same_id_stands_for_the_earlier_one(tmp_path: Path) -> None:
    entries: list[Entry] = [
        {"kind": "test", "id": "a", "n": 1},
        {"kind": "test", "n": 2},
        {"kind": "test", "id": "a", "n": 3},
    ]
    left_behind(tmp_path, *entries)
    with only(tmp_path) as journal:
        assert journal.entries == (entries[2], entries[1])


def test_what_could_not_be_undone_keeps_the_journal(tmp_path: Path) -> None:
    path = left_behind(tmp_path, {"kind": "test", "n": 1}, {"kind": "test", "n": 2})

    def undo(entry: Entry) -> UndoReport:
        return UndoReport(pending=("not allowed",)) if entry["n"] == 1 else UndoReport(kept=("theirs",))

    with only(tmp_path) as journal:
        assert journal.undo({"test": undo}) == UndoReport(kept=("theirs",), pending=("not allowed",))
    assert path.exists()
    assert only(tmp_path).undo({"test": undoing([])}).removed == ("2", "1")


def test_an_unknown_kind_is_left_alone_and_said(tmp_path: Path) -> None:
    path = left_behind(tmp_path, {"kind": "sysctl", "n": 1}, {"kind": "test", "n": 2})
    seen: list[object] = []
    with only(tmp_path) as journal:
        report = journal.undo({"test": undoing(seen)})
    assert seen == [2]
    assert "'sysctl'" in report.pending[0]
    assert path.exists()


@pytest.mark.parametrize("torn", [b'{"kind":"test","n":3', b"{", b'{"kind":"test","n":3}', b"\0\0\0"])
def test_a_torn_last_line_is_ignored(torn: bytes, tmp_path: Path) -> None:
    path = left_behind(tmp_path, {"kind": "test", "n": 1})
    path.write_bytes(path.read_bytes() + torn)
    with only(tmp_path) as journal:
        assert journal.entries == ({"kind": "test", "n": 1},)
        assert journal.damage is None


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b'{"kind":1}', b"\xff", b""])
def test_damage_elsewhere_is_left_alone_and_said(line: bytes, tmp_path: Path) -> None:
    path = left_behind(tmp_path, {"kind": "test", "n": 1})
    path.write_bytes(path.read_bytes() + line + b'\n{"kind":"test","n":3}\n')
    seen: list[object] = []
    with only(tmp_path) as journal:
        (sentence,) = journal.undo({"test": undoing(seen)}).pending
    assert seen == []
    assert str(path) in sentence
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"not one of ours\n"])
def test_a_file_that_is_no_journal_is_left_alone_and_said(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.journal"
    path.write_bytes(content)
    with only(tmp_path) as journal:
        assert str(path) in journal.undo({}).pending[0]
    assert path.exists()


def test_a_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = left_behind(tmp_path, {"kind": "test", "n": 1})
    path.write_bytes(path.read_bytes().replace(b'"connprobe_journal":1', b'"connprobe_journal":2'))
    with only(tmp_path) as journal:
        assert "another version" in journal.undo({"test": undoing([])}).pending[0]
    assert path.exists()


def test_a_journal_from_before_the_last_boot_is_removed_without_undoing(tmp_path: Path) -> None:
    path = left_behind(tmp_path, {"kind": "test", "n": 1})
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    path.write_bytes(path.read_bytes().replace(boot_id, b"0" * len(boot_id)))
    assert stale_journals(tmp_path) == []
    assert not path.exists()


def test_links_fifos_and_other_files_in_the_directory_are_not_journals(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious", encoding="ascii")
    (tmp_path / "link.journal").symlink_to("victim")
    (tmp_path / ".half-made").touch()
    assert stale_journals(tmp_path) == []
    os.mkfifo(tmp_path / "fifo.journal")
    with only(tmp_path) as journal:
        assert "regular" in journal.undo({}).pending[0]


def test_a_settled_journal_stays_for_whoever_asks_for_it(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        with Journal.create("sysctl", tmp_path, subject=f"profile {number}") as journal:
            journal.record({"kind": "test", "n": number})
            assert journal.number == 0
            journal.settle(number)
            assert (journal.number, journal.path.exists()) == (number, True)
            journal.record({"kind": "test", "n": -number})
    assert stale_journals(tmp_path) == []
    settled = settled_journals(tmp_path)
    assert [(each.number, each.header.subject) for each in settled] == [
        (10, "profile 10"),
        (2, "profile 2"),
        (1, "profile 1"),
    ]
    seen: list[object] = []
    for each in settled:
        with each:
            assert each.undo({"test": undoing(seen)}).pending == ()
    assert seen == [-10, 10, -2, 2, -1, 1]
    assert list(tmp_path.iterdir()) == []


def test_an_entry_needs_a_kind(tmp_path: Path) -> None:
    with Journal.create("hold", tmp_path) as journal:
        with pytest.raises(ValueError, match="kind"):
            journal.record({"n": 1})
        assert journal.entries == ()
        journal.finished()
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_does_not_fit_on_the_disk_is_taken_back(tiny: Path) -> None:
    with Journal.create("hold", tiny) as journal:
        journal.record({"kind": "test", "n": 1})
        with pytest.raises(RunFailed, match="nothing was changed"):
            journal.record({"kind": "test", "n": "x" * 100_003})
        journal.record({"kind": "test", "n": 2})
        assert [entry["n"] for entry in journal.entries] == [1, 2]
    with only(tiny) as stale:
        assert [entry["n"] for entry in stale.entries] == [1, 2]


def test_a_child_forked_by_the_run_keeps_it_alive(tmp_path: Path) -> None:
    journal = Journal.create("hold", tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)  # until the parent lets go
        os._exit(0)
    os.close(reader)
    try:
        journal.close()
        assert stale_journals(tmp_path) == []
    finally:
        os.close(writer)
        os.waitpid(child, 0)
    only(tmp_path).finished()


SCRIPT = """
import os, stat, sys
from connprobe.errors import RunFailed
from connprobe.store.place import journal_directory
try:
    path = journal_directory()
except RunFailed as failed:
    print(failed, failed.fix)
else:
    print(path, oct(stat.S_IMODE(path.stat().st_mode)))
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("true", "/run/connprobe 0o700"),
        ("mkdir -m 700 /run/connprobe", "/run/connprobe 0o700"),
        ("ln -s /tmp /run/connprobe", "/tmp/xdg/connprobe 0o700"),
        ("chmod a-w /run; mount -o remount,ro /run", "/tmp/xdg/connprobe 0o700"),
        ("mkdir -m 700 /run/connprobe; chown 65534 /run/connprobe", "/tmp/xdg/connprobe 0o700"),
        ("mount -o remount,ro /run; unset XDG_RUNTIME_DIR", "/tmp/connprobe-0 0o700"),
        ("mount -o remount,ro /run; ln -s /tmp/xdg /tmp/connprobe-0; unset XDG_RUNTIME_DIR", "sudo mv"),
        (
            "mount -o remount,ro /run; mkdir -m 777 /tmp/connprobe-0; unset XDG_RUNTIME_DIR",
            "sudo mv",
        ),
    ],
)
def test_where_journals_are_kept(prepare: str, expected: str) -> None:
    """In a private mount namespace with an empty /run and /tmp."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make a mount namespace: sudo .venv/bin/pytest")
    setup = (
        "mount --bind / /mnt && "  # this checkout may lie in /tmp
        "mount -t tmpfs t /run && mount -t tmpfs t /tmp && mkdir -m 700 /tmp/xdg && XDG_RUNTIME_DIR=/tmp/xdg"
    )
    package = Path(connprobe.__file__).parents[1]
    shell = (
        f"{setup} && export XDG_RUNTIME_DIR PYTHONPATH=/mnt{package} && "
        f'{{ {prepare}; }} && exec "/mnt$0" -c "$1"'
    )
    command = ["unshare", "-m", "sh", "-c", shell, sys.executable, SCRIPT]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert expected in said
