"""A file that a user named for output: written whole or not at all, and nothing else by accident."""

import os
import stat
from pathlib import Path

from connprobe.errors import RunFailed
from connprobe.store import files


def write_output(path: Path, text: str) -> None:
    """Put `text` in a regular file, new or replaced. Raises RunFailed: for a link or a device too."""
    try:
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise RunFailed(
                f"{path} is not a regular file", fix="name another file, or - for standard output"
            )
        with files.directory(path.parent, follow=True) as directory:
            files.replace_file(path.name, text.encode(), directory)
    except OSError as error:
        raise RunFailed(
            f"{path} cannot be written: {error.strerror or error}",
            fix="name a file where you may write, with --output",
        ) from error
