"""What a run changes on the host is written down before it is changed, so that the next run can put it
back when this one was killed.

The journal's owner holds flock(2) on it for life, so a journal that can be locked belongs to a dead
run: no process id that another process may have by now, no timestamp to believe. The lock is shared
with processes forked after `create`: while one of them lives, the run does.

A change that is to outlive its command is settled: its journal goes on under another name, where no later
run takes it for a dead one's.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from connprobe.errors import RunFailed
from connprobe.store import files
from connprobe.store.place import boot_id, journal_directory

Entry = dict[str, object]

_SUFFIX, _SETTLED = ".journal", ".applied"
_FORMAT = 1


class Undone(Protocol):
    """What an undo function reports, each as a sentence or a name to print."""

    @property
    def removed(self) -> Sequence[str]: ...  # put back, and seen to be back
    @property
    def kept(self) -> Sequence[str]: ...  # rightly left: gone already, or somebody else's by now
    @property
    def pending(self) -> Sequence[str]: ...  # still to be put back: the journal has to stay


class UndoReport(msgspec.Struct, frozen=True):
    """The sum over a journal's entries. `pending` not empty: its file is still there."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A journal's first line."""

    connprobe_journal: int
    command: str
    pid: int
    boot_id: str
    subject: str = ""  # what was applied
    at: str = ""  # ISO 8601, UTC


class Journal:
    """One run's undo entries. Leaving the `with` block keeps the file: only `finished` removes it."""

    def __init__(self, name: str, directory: Path, dir_fd: int, fd: int, header: Header) -> None:
        self.path = directory / name
        self.header = header
        self.damage: str | None = None
        self._name = name
        self._dir_fd = dir_fd
        self._fd = fd
        self._size = 0
        self._entries: list[Entry] = []

    @classmethod
    def create(cls, kind: str, directory: Path | None = None, *, subject: str = "") -> Self:
        """An empty journal of this process, locked. `kind` is the command. Raises RunFailed.

        Locked under a name that nobody looks for, then renamed: nobody can take it for a dead run's.
        """
        directory = directory or journal_directory()
        stem = f"{kind}-{os.getpid()}-{secrets.token_hex(4)}"
        header = Header(
            connprobe_journal=_FORMAT,
            command=kind,
            pid=os.getpid(),
            boot_id=boot_id(),
            subject=subject,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        dir_fd = -1
        try:
            dir_fd = files.open_directory(directory)
            fd = files.create_file(f".{stem}", dir_fd, mode=0o600)
        except OSError as error:
            if dir_fd >= 0:
                os.close(dir_fd)
            raise RunFailed(f"no undo journal in {directory}: {error.strerror}") from error
        journal = cls(stem + _SUFFIX, directory, dir_fd, fd, header)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            journal._append(msgspec.json.encode(header))
            os.rename(f".{stem}", stem + _SUFFIX, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except OSError as error:
            os.unlink(f".{stem}", dir_fd=dir_fd)
            journal.close()
            raise RunFailed(f"no undo journal in {directory}: {error.strerror}") from error
        return journal

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is to be undone, oldest first. A later entry with the same "id" stands for the earlier one."""
        merged: dict[object, Entry] = {}
        for index, entry in enumerate(self._entries):
            merged[entry.get("id", index)] = entry
        return tuple(merged.values())

    def record(self, entry: Entry) -> None:
        """Write an entry and wait until it is on the disk. It needs a "kind"; do the deed only afterwards.

        Raises RunFailed; then the entry is not in the journal and the deed must not be done.
        """
        if not isinstance(entry.get("kind"), str):
            raise ValueError("an undo entry needs a kind")
        try:
            self._append(msgspec.json.encode(entry))
        except OSError as error:
            raise RunFailed(
                f"{self.path} cannot be written: {error.strerror}: nothing was changed"
            ) from error
        self._entries.append(entry)

    def undo(self, undoers: Mapping[str, Callable[[Entry], Undone]]) -> UndoReport:
        """Undo all entries, newest first, by their kind; remove the file if nothing is left to be undone.

        A kind without an undo function, and a damaged journal, is left alone and said.
        """
        removed: list[str] = []
        kept: list[str] = []
        pending: list[str] = [self.damage] if self.damage else []
        for entry in reversed(self.entries if not self.damage else ()):
            undoer = undoers.get(str(entry["kind"]))
            if undoer is None:
                pending.append(f"{self.path} has an entry of the unknown kind {entry['kind']!r}: left alone")
                continue
            outcome = undoer(entry)
            removed += outcome.removed
            kept += outcome.kept
            pending += outcome.pending
        if not pending:
            self.finished()
        return UndoReport(tuple(removed), tuple(kept), tuple(pending))

    @property
    def number(self) -> int:
        """The id of a settled journal, counted from 1 since the boot; 0: it is not settled."""
        found = re.fullmatch(rf".*-(\d+){re.escape(_SETTLED)}", self._name)
        return int(found[1]) if found else 0

    def settle(self, number: int) -> None:
        """What was done stays until it is undone by this number, which no settled journal may have yet."""
        name = f"{self.header.command}-{number}{_SETTLED}"
        os.rename(self._name, name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        os.fsync(self._dir_fd)
        self._name, self.path = name, self.path.with_name(name)

    def finished(self) -> None:
        """Everything is verifiably undone: remove the file."""
        os.unlink(self._name, dir_fd=self._dir_fd)
        self.close()

    def close(self) -> None:
        """Let go of the lock. The file stays if it was not removed: the next run will find it."""
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._dir_fd)
            self._fd = self._dir_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        """Raises OSError, having taken back what was written of the line."""
        try:
            os.lseek(self._fd, self._size, os.SEEK_SET)
            files.write_all(self._fd, line + b"\n")
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line) + 1

    def _read(self, data: bytes) -> None:
        """Take the entries over. What follows the last newline is torn: its deed had not begun."""
        _, *lines = data[: data.rfind(b"\n") + 1].splitlines()
        self._entries = [msgspec.json.decode(line, type=Entry) for line in lines]
        if not all(isinstance(entry.get("kind"), str) for entry in self._entries):
            raise msgspec.ValidationError("an entry has no kind")


def stale_journals(directory: Path | None = None) -> list[Journal]:
    """The journals of dead runs, locked by this process until they are undone, removed or closed.

    Those from before the last boot are removed: what they would undo went with it. One that cannot be
    read is returned with `damage` set and no entries.
    """
    return _all(directory or journal_directory(), _SUFFIX)


def settled_journals(directory: Path | None = None) -> list[Journal]:
    """The settled journals, newest first. Not locked: whoever undoes or settles one has to see to that."""
    found = _all(directory or journal_directory(), _SETTLED, lock=False)
    return sorted(found, key=lambda journal: journal.number, reverse=True)


def _all(directory: Path, suffix: str, *, lock: bool = True) -> list[Journal]:
    found = []
    with files.directory(directory) as dir_fd:
        for path in sorted(directory.glob(f"*{suffix}")):
            journal = _take(path.name, directory, dir_fd, lock=lock)
            if journal is not None:
                found.append(journal)
    return found


def _take(name: str, directory: Path, dir_fd: int, *, lock: bool) -> Journal | None:
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # just finished; a link is never one of ours
            return None
        raise RunFailed(f"{directory / name} cannot be read: {error.strerror}") from error
    try:
        if lock:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink == 0:  # undone by another run between our open and our lock
            raise BlockingIOError
    except BlockingIOError:
        os.close(fd)
        return None
    unread = Header(connprobe_journal=0, command="?", pid=0, boot_id="")
    journal = Journal(name, directory, os.dup(dir_fd), fd, unread)
    try:
        data = files.read_file(name, dir_fd=dir_fd, follow=False)
        journal.header = msgspec.json.decode(data.partition(b"\n")[0], type=Header)
        if journal.header.boot_id != boot_id():
            journal.finished()
            return None
        if journal.header.connprobe_journal != _FORMAT:
            raise msgspec.ValidationError("it was written by another version of connprobe")
        journal._read(data)
    except (msgspec.DecodeError, OSError) as error:
        journal.damage = f"{journal.path} cannot be understood and is left alone: {error}"
    return journal
