"""What a comparison keeps on the disk: what was asked for, and each bout as it ended."""

import errno
from pathlib import Path

import msgspec

from connprobe.errors import RunFailed
from connprobe.model.base import Record
from connprobe.model.bout import COMPARE_SCHEMA, Bout, CompareRecord, CompareRequest
from connprobe.plan.suites.suite import mistakes, shown
from connprobe.store import files

REQUEST, BOUTS, COMPARE = "suite.json", "bouts.jsonl", "compare.json"
MOST_BYTES = 1 << 26
_OWNER = "resume it as the user whose it is, in a directory that others may not write to (chmod go-w)"


class _Schema(Record, frozen=True):
    schema: str


def read_request(directory: Path) -> CompareRequest:
    """What the comparison in `directory` was asked for. Raises RunFailed.

    Its commands will be run: nobody else may have written them.
    """
    path = directory / REQUEST
    again = "the comparison has to be made again"
    try:
        with files.directory(directory, follow=True) as fd:
            files.check_ours(".", fd)
            data = files.read_file(REQUEST, dir_fd=fd, follow=False, most=MOST_BYTES, ours=True)
        request = msgspec.json.decode(data, type=CompareRequest)
    except FileNotFoundError:
        fix = "name the directory that connprobe compare made"
        raise RunFailed(f"{directory} holds no comparison: there is no {REQUEST}", fix=fix) from None
    except OSError as error:
        if error.errno == errno.EPERM:
            where = directory / (error.filename or "")
            raise RunFailed(f"{where}: {error.strerror}; its commands would run as you", fix=_OWNER) from None
        raise RunFailed(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunFailed(f"{path} is damaged: {error}", fix=again) from None
    for mistake in mistakes(request.suite, filled=True):
        raise RunFailed(f"{path} is damaged: {shown(mistake.path)}: {mistake.what}", fix=again)
    return request


def read_compare(directory: Path) -> CompareRecord:
    """The result of the comparison in `directory`. Raises RunFailed."""
    path = directory / COMPARE
    try:
        data = files.read_file(path, most=MOST_BYTES)
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != COMPARE_SCHEMA:
            raise RunFailed(f"{path} has the schema {schema}; this connprobe reads {COMPARE_SCHEMA}")
        return msgspec.json.decode(data, type=CompareRecord)
    except OSError as error:
        raise RunFailed(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fix = f"connprobe compare --resume {directory} makes it again"
        raise RunFailed(f"{path} is damaged: {error}", fix=fix) from None


def read_bouts(directory: Path) -> list[Bout]:
    """Those that ended; a line that a crash cut short is left out, and its bout made again."""
    try:
        data = files.read_file(directory / BOUTS, most=MOST_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFailed(f"{directory / BOUTS} cannot be read: {error.strerror or error}") from error
    found = []
    for line in data.splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Bout))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return found
