"""Compiled programs that outlast a run: loaded into the kernel by whoever finds them, so nobody else may
have written them.

A directory of ours alone (0700) holds one file for each rung. What is somebody else's, a link, or larger
than can be is refused and named; the file is replaced by the next that is compiled.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from connprobe.store import files

MOST_FILES = 32  # 7 of a run; some for other kernels of this machine, or other versions of connprobe
MOST_BYTES = 1 << 20  # of one; they take 5 to 60 kB
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not make us wait


def cache_directory() -> Path | None:
    """root's is /var/cache/connprobe, others' in $XDG_CACHE_HOME or ~/.cache. None: neither is set."""
    if os.geteuid() == 0:  # not by the environment, which sudo may have left as its caller's
        return Path("/var/cache/connprobe")
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        home = os.environ.get("HOME", "")
        base = f"{home}/.cache" if home.startswith("/") else ""
    return Path(base, "connprobe") if base else None


class Kept:
    """The files of one directory, which is made by the first `put`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> bytes | None:
        """None: there is none of that key. OSError: there is, but it or the directory is not ours alone."""
        if not os.path.lexists(self._path):
            return None
        files.private_directory(self._path)
        with files.directory(self._path) as directory:
            try:
                fd = os.open(key, _READ, dir_fd=directory)
            except FileNotFoundError:
                return None
            with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
                self._check(os.fstat(fd), key)
                data = file.read(MOST_BYTES + 1)
                with suppress(OSError):
                    os.utime(fd)  # those used last are the last to go
        return data

    def _check(self, status: os.stat_result, key: str) -> None:
        where = self._path / key
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{where} is not a regular file")
        if status.st_uid != os.geteuid() or status.st_mode & 0o022 or status.st_nlink != 1:
            raise OSError(f"{where} is not ours alone to write")
        if status.st_size > MOST_BYTES:
            raise OSError(f"{where} is larger than {MOST_BYTES} bytes")

    def put(self, key: str, data: bytes) -> None:
        """Keep it, and of all only the newest. OSError: nothing was kept."""
        files.make_directories(self._path.parent)
        files.private_directory(self._path)
        with files.directory(self._path) as directory:
            files.replace_file(key, data, directory, mode=0o600)
            self._bound(directory)

    def _bound(self, directory: int) -> None:
        """What a run that was killed left half-written goes with the oldest."""
        found = []
        for name in os.listdir(directory):
            with suppress(FileNotFoundError):
                found.append((os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime_ns, name))
        for _, name in sorted(found, reverse=True)[MOST_FILES:]:
            with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                os.unlink(name, dir_fd=directory)
