"""Reading samples.jsonl a line at a time, so that a run of days needs no more memory than a short one."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from connprobe.errors import RunFailed
from connprobe.model import Sample
from connprobe.store import files

SAMPLES = "samples.jsonl"
LONGEST_LINE = 1 << 20  # a sample takes about a kilobyte; whoever wrote more was not connprobe

_decoder = msgspec.json.Decoder(Sample)


def read_samples(directory: Path, *, dir_fd: int | None = None) -> Iterator[Sample | None]:
    """The samples of a run in their order; None for a line that is none, such as one cut by a power failure.

    dir_fd: the directory, where it is open already. No file: no samples. Raises RunFailed where it cannot be
    read.
    """
    name = str(directory / SAMPLES) if dir_fd is None else SAMPLES
    try:
        fd = os.open(name, files.READ, dir_fd=dir_fd)
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError("not a regular file")
            while line := file.readline(LONGEST_LINE):
                whole = line.endswith(b"\n")
                yield _decoded(line) if whole or len(line) < LONGEST_LINE else None
                while not whole and (rest := file.readline(LONGEST_LINE)):
                    whole = rest.endswith(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFailed(f"{directory / SAMPLES} cannot be read: {error.strerror or error}") from error


def _decoded(line: bytes) -> Sample | None:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):  # ValidationError is a DecodeError
        return None
