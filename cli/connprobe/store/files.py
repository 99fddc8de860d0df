"""Files written where others may write too: run as root in somebody's directory, connprobe must not be
led by a planted link to write elsewhere, nor leave half a file where a reader expects a whole one.

Directories are held open and names are resolved against them, so that a directory swapped for a link
after it was checked changes nothing.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO must not make the reader wait


def open_directory(path: Path | str, *, follow: bool = False) -> int:
    """A descriptor of a directory, whose last component may be a link only with `follow` (else OSError)."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))


def make_directories(path: Path) -> None:
    """Make `path` and what is missing above it, 0755 at most: Path.mkdir leaves the parents to the umask."""
    for directory_path in (*reversed(path.parents), path):
        if not directory_path.is_dir():
            directory_path.mkdir(mode=0o755, exist_ok=True)


def create_file(name: str, dir_fd: int, *, mode: int = 0o644, append: bool = False) -> int:
    """A descriptor of a new file, at most `mode` after the umask. FileExistsError: the name is taken."""
    return os.open(name, _NEW | os.O_RDWR | (os.O_APPEND if append else 0), mode & ~0o022, dir_fd=dir_fd)


def append_file(name: str, dir_fd: int) -> int:
    """A descriptor at the end of a file that we made, or of a new one. OSError: also where it is a link."""
    try:
        return create_file(name, dir_fd, append=True)
    except FileExistsError:
        return os.open(name, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def write_all(fd: int, data: bytes) -> None:
    """Write everything or raise OSError: write(2) on a filling disk writes a part first, then fails."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_file(name: str, data: bytes, dir_fd: int, *, mode: int = 0o644) -> None:
    """Put `data` under `name`: readers see the old file or the new one, whole, also after a power cut.

    A link under that name is replaced, not followed. Raises OSError; then nothing has changed.
    """
    temporary = f".{name}.{secrets.token_hex(8)}"
    fd = create_file(temporary, dir_fd, mode=mode)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        os.unlink(temporary, dir_fd=dir_fd)
        raise
    os.fsync(dir_fd)


def read_file(
    path: Path | str, *, dir_fd: int | None = None, follow: bool = True, most: int = 1 << 28
) -> bytes:
    """A regular file's bytes, or OSError: also for a FIFO, a device, or more than `most` bytes."""
    fd = os.open(path, READ | (0 if follow else os.O_NOFOLLOW), dir_fd=dir_fd)
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(f"{path} is larger than {most} bytes")
    return data


def ends_a_line(name: str, dir_fd: int) -> bool:
    """Whether what is appended to a file begins a line of its own. OSError: also where it is a link."""
    fd = os.open(name, READ | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        size = os.fstat(fd).st_size
        return not size or os.pread(fd, 1, size - 1) == b"\n"
    finally:
        os.close(fd)


@contextmanager
def directory(path: Path | str, *, follow: bool = False) -> Iterator[int]:
    """`open_directory` for the length of a `with` block."""
    fd = open_directory(path, follow=follow)
    try:
        yield fd
    finally:
        os.close(fd)


def private_directory(path: Path) -> Path:
    """Make `path` 0700, or accept it when it is a directory of ours that nobody else may enter. OSError."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    with directory(path) as fd:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(errno.EACCES, "not a directory of ours alone", str(path))
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return path
