"""A run's results reach the disk while it goes on: when the machine dies at 400,000 connections, the
samples up to that second are what the run was for.
"""

import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from connprobe.errors import RunFailed
from connprobe.model import (
    PIPELINE_SCHEMA,
    SCHEMA,
    HoldPlan,
    Obstacle,
    PipelineRecord,
    Record,
    RunRecord,
    Sample,
    WatchRecord,
)
from connprobe.model.base import as_json
from connprobe.store import files
from connprobe.store.samples import SAMPLES, read_samples

RECORD = "run.json"
PLAN = "plan.json"
WATCH = "watch.json"
PIPELINE = "pipeline.json"
REPORT = "report.html"
LOG = "workers.log"
SERVER_LOG = "server.log"

_MOST_RUNS_A_SECOND = 1000
_ANOTHER = 'choose a directory you may write to: --results "$HOME/connprobe"'
_FIXES = {
    errno.ENOSPC: "free some space there, or choose another directory with --results",
    errno.EDQUOT: "free some of your disk quota, or choose another directory with --results",
    errno.EEXIST: "move away what is there, or choose another directory with --results",
    errno.ENOTDIR: "move away what is there, or choose another directory with --results",
}
_encoder = msgspec.json.Encoder()


class _Schema(Record, frozen=True):
    schema: str


class RunDirectory:
    """`<base>/<utc>-<command>-<target>/` of one run, held open so that nobody can swap it."""

    def __init__(self, path: Path, fd: int, samples_fd: int) -> None:
        self.path = path
        self.error: OSError | None = None  # the first sample that could not be written
        self.samples_written = 0
        self._fd = fd
        self._samples_fd = samples_fd

    @classmethod
    def create(cls, base: Path, command: str, target_label: str, lines: str = SAMPLES) -> Self:
        """Make the directory, and `base` where it is missing. Raises RunFailed naming what is in the way.

        lines: the file that `append_sample` writes to.
        """
        stem = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{command}-{sanitise(target_label)}"
        try:
            files.make_directories(base)
            path = _make_exclusively(base, stem)
            fd = files.open_directory(path)
            try:
                return cls(path, fd, files.create_file(lines, fd, append=True))
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise _failed(base, error) from error

    @classmethod
    def reopen(cls, path: Path, lines: str) -> Self:
        """The directory of an earlier run, to go on with it; a line that was cut short gets its end."""
        try:
            fd = files.open_directory(path)
            try:
                lines_fd = files.append_file(lines, fd)
                if not files.ends_a_line(lines, fd):
                    os.write(lines_fd, b"\n")
                return cls(path, fd, lines_fd)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise _failed(path, error) from error

    def open_log(self, name: str = LOG) -> BinaryIO:
        """A file for the output of processes, appended to; the caller closes it. Raises RunFailed."""
        try:
            return os.fdopen(files.append_file(name, self._fd), "wb")
        except OSError as error:
            raise _failed(self.path / name, error) from error

    def private(self, name: str) -> Path:
        """A directory in it that nobody else may enter, made or made before. Raises RunFailed."""
        path = self.path / name
        try:
            return files.private_directory(path)
        except OSError as error:
            raise _failed(path, error) from error

    def append_sample(self, sample: Record) -> None:
        """Append one line, in one write(2), at once. Never raises: the first OSError stays in `.error`.

        A half-written line is taken back, so that what follows once there is space again is readable.
        """
        line = _encoder.encode(sample) + b"\n"
        try:
            written = os.write(self._samples_fd, line)
            if written < len(line):
                os.ftruncate(self._samples_fd, os.fstat(self._samples_fd).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError as error:
            self.error = self.error or error
        else:
            self.samples_written += 1

    def write_plan(self, plan: HoldPlan) -> None:
        """Write plan.json. Raises RunFailed."""
        self._replace(PLAN, plan)

    def write_record(self, record: RunRecord) -> None:
        """Write run.json, whole or not at all. Raises RunFailed."""
        self._replace(RECORD, record)

    def write_watch(self, record: WatchRecord) -> None:
        """Write watch.json. Raises RunFailed."""
        self._replace(WATCH, record)

    def write(self, name: str, record: Record) -> None:
        """Write another record as JSON, whole or not at all. Raises RunFailed."""
        self._replace(name, record)

    def write_text(self, name: str, text: str) -> None:
        """Write another file of the run, such as its report. Raises RunFailed."""
        self._put(name, text.encode())

    def read_samples(self) -> Iterator[Sample | None]:
        """What was appended; None for a line that is damaged. Raises RunFailed."""
        return read_samples(self.path, dir_fd=self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._samples_fd)
            os.close(self._fd)
            self._fd = self._samples_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _replace(self, name: str, record: msgspec.Struct) -> None:
        self._put(name, as_json(record).encode() + b"\n")

    def _put(self, name: str, data: bytes) -> None:
        try:
            files.replace_file(name, data, self._fd)
        except OSError as error:
            raise _failed(self.path / name, error) from error


def sanitise(label: str) -> str:
    """A target's label as part of a file name: no separators, no leading dot, at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.")[:60] or "target"


def load_record(path: Path) -> RunRecord:
    """Read the record of a run from its directory or its run.json.

    Raises RunFailed that tells missing, not connprobe's, of another schema, and damaged apart.
    """
    path = path / RECORD if path.is_dir() else path
    try:
        data = files.read_file(path)
    except FileNotFoundError:
        raise RunFailed(f"{path} does not exist", fix="name a run directory or its run.json") from None
    except OSError as error:
        raise RunFailed(f"{path} cannot be read: {error.strerror or error}") from error
    again = "the run has to be made again"
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunFailed(f"{path} is damaged: {error}", fix=again) from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(schema, str) or not schema.startswith("connprobe/run/"):
        raise RunFailed(
            f"{path} is not a run record of connprobe", fix="name a run directory or its run.json"
        )
    if schema != SCHEMA:
        raise RunFailed(
            f"{path} has the schema {schema}; this connprobe reads {SCHEMA}",
            fix=f"read it with connprobe {found.get('connprobe', 'of the version')}, which wrote it",
        )
    try:
        return msgspec.convert(found, RunRecord)
    except msgspec.ValidationError as error:
        raise RunFailed(f"{path} is damaged: {error}", fix=again) from None


def is_pipeline(path: Path) -> bool:
    """Whether it is the directory of a run of `pipeline`, or its record."""
    if path.is_dir():
        return (path / PIPELINE).is_file()
    try:
        schema = msgspec.json.decode(files.read_file(path), type=_Schema).schema
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return path.name == PIPELINE
    return schema.startswith("connprobe/pipeline/")


def load_pipeline(path: Path) -> PipelineRecord:
    """The record of a run of `pipeline`, from its directory or its pipeline.json. Raises RunFailed."""
    path = path / PIPELINE if path.is_dir() else path
    again = "the run has to be made again"
    try:
        data = files.read_file(path)
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != PIPELINE_SCHEMA:
            raise RunFailed(
                f"{path} has the schema {schema}; this connprobe reads {PIPELINE_SCHEMA}", fix=again
            )
        return msgspec.json.decode(data, type=PipelineRecord)
    except OSError as error:
        raise RunFailed(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunFailed(f"{path} is damaged: {error}", fix=again) from None


def check_writable(base: Path, need_bytes: int) -> Obstacle | None:
    """What keeps a run from writing `need_bytes` under `base`, found by writing there; None: nothing.

    The free space is statvfs(3)'s f_bavail: what is there for this user. Nothing is left behind.
    """
    place = _nearest(base)
    need = f"{need_bytes:,} bytes in {base}"
    try:
        # Followed on purpose: a results directory that its owner made a link is as good as any.
        with files.directory(place, follow=True) as fd:
            _probe(fd)
            status = os.fstatvfs(fd)
    except OSError as error:
        have = f"{place}: {error.strerror or error}"
        return Obstacle(what="results directory", have=have, need=need, fix=_fix(error))
    free = status.f_bavail * status.f_frsize
    if free < need_bytes:
        have = f"{place}: {free:,} bytes free"
        return Obstacle(what="results directory", have=have, need=need, fix=_FIXES[errno.ENOSPC])
    return None


def _probe(dir_fd: int) -> None:
    name = f".connprobe-{os.getpid()}-{time.monotonic_ns()}"
    fd = files.create_file(name, dir_fd, mode=0o600)
    try:
        files.write_all(fd, b"\0" * 4096)
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=dir_fd)


def _make_exclusively(base: Path, stem: str) -> Path:
    for attempt in range(1, _MOST_RUNS_A_SECOND):
        path = base / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            path.mkdir(mode=0o755)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(base / stem))


def _nearest(path: Path) -> Path:
    """`path`, or what can be seen closest above it (a dangling link is there, and in the way)."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _fix(error: OSError) -> str:
    return _FIXES.get(error.errno or 0, _ANOTHER)


def _failed(path: Path, error: OSError) -> RunFailed:
    return RunFailed(f"{path} cannot be written: {error.strerror} ({_nearest(path)})", fix=_fix(error))
