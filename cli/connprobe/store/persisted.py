"""A file in /etc/sysctl.d that outlives the boot: never over another one, removed only while it is ours."""

import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from connprobe.errors import RunFailed
from connprobe.store import files

Entry = dict[str, object]


class Removed(NamedTuple):
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


def persist(path: Path, data: bytes, record: Callable[[Entry], None]) -> bool:
    """Write a file of ours, 0644. False: it was there already, with the same content, and stays.

    `record` gets the undo entry before anything is written. A link in its place is not followed. Raises
    RunFailed, also where the name is taken by another file.
    """
    try:
        files.make_directories(path.parent)
        with files.directory(path.parent, follow=True) as dir_fd:
            if _found(path, dir_fd) == data:
                return False
            temporary = f".{path.name}.{secrets.token_hex(8)}"
            digest = hashlib.sha256(data).hexdigest()
            record({"kind": "sysctl-file", "path": str(path), "temporary": temporary, "sha256": digest})
            fd = files.create_file(temporary, dir_fd)
            try:
                os.fchmod(fd, 0o644)  # whatever the umask: others than root may read sysctls too
                files.write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.link(temporary, path.name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
            os.unlink(temporary, dir_fd=dir_fd)
            os.fsync(dir_fd)
    except FileExistsError as error:
        raise RunFailed(f"{path} is there already, and not the same", fix=f"sudo rm {path}") from error
    except OSError as error:
        raise RunFailed(f"{path} cannot be written: {error.strerror or error}") from error
    return True


def remove_persisted(entry: Entry) -> Removed:
    """Remove the file of an entry, unless somebody changed it since."""
    path = Path(str(entry["path"]))
    try:
        with files.directory(path.parent, follow=True) as dir_fd:
            with suppress(FileNotFoundError):
                os.unlink(str(entry["temporary"]), dir_fd=dir_fd)
            try:
                data = files.read_file(path.name, dir_fd=dir_fd, follow=False)
            except FileNotFoundError:
                return Removed()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                return Removed(kept=(f"{path}: somebody changed it",))
            os.unlink(path.name, dir_fd=dir_fd)
            os.fsync(dir_fd)
    except FileNotFoundError:
        return Removed()
    except OSError as error:
        return Removed(pending=(f"{path} cannot be removed: {error.strerror or error}",))
    return Removed(removed=(str(path),))


def _found(path: Path, dir_fd: int) -> bytes | None:
    try:
        return files.read_file(path.name, dir_fd=dir_fd, follow=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileExistsError(str(error)) from error
