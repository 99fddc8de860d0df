"""One at a time: a file that is locked while its holder lives, and says who that is."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connprobe.errors import RunFailed
from connprobe.store import files
from connprobe.store.place import journal_directory

_LOOK_AGAIN_S = 0.02


class Busy(RunFailed):
    """Somebody else has the lock: `owner`, as it called itself, and its pid."""

    owner = "another command"


@contextmanager
def exclusive(
    name: str, who: str, directory: Path | None = None, *, patience_s: float = 0.0
) -> Iterator[None]:
    """Hold the lock `name` for the `with` block; others are told that `who` has it.

    Raises Busy when it is not free within `patience_s`.
    """
    directory = directory or journal_directory()
    try:
        with files.directory(directory) as dir_fd:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(f"{name}.lock", flags, 0o600, dir_fd=dir_fd)
    except OSError as error:
        raise RunFailed(f"no lock {name}.lock in {directory}: {error.strerror}") from error
    try:
        _lock(fd, name, time.monotonic() + patience_s)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{who} (pid {os.getpid()})".encode(), 0)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, name: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                owner = os.pread(fd, 200, 0).decode(errors="replace") or "another command"
                busy = Busy(f"{owner} has the lock on {name}", fix="wait until it has ended")
                busy.owner = owner
                raise busy from None
            time.sleep(_LOOK_AGAIN_S)
