"""The numbers of tracepoints, from tracefs: mounted for no one to see where it is not mounted."""

import os
from contextlib import suppress

from connprobe.kernel import bpf

_PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on all architectures; Linux 5.2
_CLOEXEC, _CONFIG_CREATE = 1, 6


def tracepoint_id(target: str) -> int:
    """Of "group:name". OSError: there is no such tracepoint, or we may not look."""
    path = f"events/{target.replace(':', '/')}/id"
    for place in _PLACES:
        with suppress(FileNotFoundError):
            directory = os.open(f"{place}/events", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            os.close(directory)
            return _read(f"{place}/{path}")
    mounted = _mount()
    try:
        return _read(path, mounted)
    finally:
        os.close(mounted)


def _read(path: str, directory: int | None = None) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return int(os.read(fd, 32))
    finally:
        os.close(fd)


def _mount() -> int:
    """A descriptor of tracefs' root, at no place of the file system: it ends as this is closed."""
    try:
        context = bpf.system_call(_FSOPEN, b"tracefs", _CLOEXEC)
        try:
            bpf.system_call(_FSCONFIG, context, _CONFIG_CREATE, None, None, 0)
            return bpf.system_call(_FSMOUNT, context, _CLOEXEC, 0)
        finally:
            os.close(context)
    except OSError as error:
        raise OSError(error.errno, f"no tracefs at {_PLACES[0]}, and mounting it: {error.strerror}") from None
