"""Where the preload lies and processes answer: within reach of whichever user the server runs as.

A server may be started by root and run as somebody else (su, setpriv), who can read neither a checkout below
/root nor the directory of a run. So it is a directory that nobody but us can list, and below it a name that
nobody can guess: who has not the server's environment does not find it.
"""

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "connprobe-node-"
OTHERS: Final = ("/dev/shm", "/run", "/var/tmp")  # noqa: S108 - as good as the usual one, where that is closed
SEARCH, DROP = 0o711, 0o1733  # by others: to find what they know the name of; to make files, and list none
YOUNG_S: Final = 60.0  # one that is being made is not locked yet


class Place:
    """`directory` has copies of `files`, which all may read; in `sockets` all may make files.

    Making one takes away those of runs that were killed. OSError: there is no room for it.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        parent = _parent()
        _sweep(parent)
        self._top = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._lock = os.open(self._top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.directory = self._top / secrets.token_hex(16)
            self.sockets = self.directory / "heaps"
            for made, mode in ((self.directory, SEARCH), (self.sockets, DROP)):
                made.mkdir(mode=0o700)
                made.chmod(mode)  # whatever the umask
            for file in files:
                copy = self.directory / file.name
                copy.write_bytes(file.read_bytes())
                copy.chmod(0o644)
            self._top.chmod(SEARCH)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Takes it away. Idempotent."""
        if self._lock >= 0:
            shutil.rmtree(self._top, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _parent() -> Path:
    """The usual directory for such files, or one like it that all users reach."""
    usual = Path(tempfile.gettempdir()).resolve()
    return next((path for path in (usual, *map(Path, OTHERS)) if _is_open(path)), usual)


def _is_open(path: Path) -> bool:
    try:
        reached = all(each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents))
    except OSError:
        return False
    return reached and os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def _sweep(parent: Path) -> None:
    """Of a run that is over nobody holds the lock."""
    for left in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another's, or gone meanwhile
            opened = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(opened)
                if status.st_uid == os.geteuid() and time.time() - status.st_mtime > YOUNG_S:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(opened)
