"""The only place that reads and writes /proc/sys. Every write is read back, and undone from a journal
whose entry was there first.
"""

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from connprobe.errors import RunFailed
from connprobe.model import SysctlChange
from connprobe.plan.sysctl.changes import Reading, normal
from connprobe.plan.sysctl.keys import dotted, namespace_of
from connprobe.system.namespaces import identity

Entry = dict[str, object]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")  # the unit of tcp_mem


class Tree:
    """/proc/sys, or a directory that stands for it in a test. Keys are paths below it."""

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self.root = root

    def read(self, key: str) -> Reading:
        """The value without its last newline, and whether it can be written. Bytes survive as surrogates."""
        try:
            fd = self._open(key, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return Reading(None)
        except OSError as error:
            return Reading(None, "no", f"it cannot be read: {error.strerror}")
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
            try:
                data = file.read()
            except OSError as error:
                return Reading(None, "no", f"it cannot be read: {error.strerror}")
            mode, flags = os.fstat(fd).st_mode, os.fstatvfs(fd).f_flag
        value = data.decode("utf-8", "surrogateescape").removesuffix("\n")
        if flags & os.ST_RDONLY:
            return Reading(value, "no", f"{self.root} is mounted read-only, as in a container")
        if not mode & 0o222:
            here = " in this network namespace" if namespace_of(key) == "net" else ""
            return Reading(value, "no", f"the kernel has it read-only{here}")
        if not os.access(self.root / key, os.W_OK, effective_ids=True):
            return Reading(value, "not us", "permission denied")
        return Reading(value)

    def write(self, key: str, value: str) -> None:
        """Raises OSError. The newline makes a write of an empty value too, as sysctl(8) does it."""
        fd = self._open(key, os.O_WRONLY | os.O_TRUNC)  # procfs ignores O_TRUNC
        try:
            data = value.encode("utf-8", "surrogateescape") + b"\n"
            if os.write(fd, data) != len(data):
                raise OSError(None, "the kernel took a part of the value")
        finally:
            os.close(fd)

    def matching(self, pattern: str) -> list[str]:
        """The keys that a pattern of sysctl.d(5) stands for, sorted."""
        found = sorted(glob.glob(pattern, root_dir=self.root))  # noqa: PTH207 - Path.glob has other rules
        return [key for key in found if (self.root / key).is_file()]

    def _open(self, key: str, flags: int) -> int:
        """No component may be a link: OSError."""
        *directories, name = key.split("/")
        fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in directories:
                below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = below
            return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=fd)
        finally:
            os.close(fd)


class PutBack(NamedTuple):
    """What became of an entry. A key that has its old value anyway is in none of the three."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


def set_values(
    tree: Tree, changes: Sequence[SysctlChange], record: Callable[[Entry], None], stop: Callable[[], bool]
) -> list[str]:
    """Write `changes`; all original values reach `record` before the first write. Returns what the kernel
    made of values that it did not take as they were.

    An entry is "planned", then "writing", then "written" with the value as it was read back: so a run that
    is killed leaves in doubt one key at most. With `stop` the rest is left out.

    Raises RunFailed naming the key; undoing what is in the journal by then is the caller's part.
    """
    entries = [_entry(tree, change) for change in changes]
    for entry in entries:
        record(entry)
    said = []
    for change, entry in zip(changes, entries, strict=True):
        if stop():
            break
        record({**entry, "state": "writing"})
        name, after = dotted(change.key), normal(change.after)
        try:
            tree.write(change.key, change.after)
        except OSError as error:
            if change.optional:
                record({**entry, "state": "planned"})
                said.append(f"{name} = {after} was refused: {error.strerror}; the profile does not insist")
                continue
            raise RunFailed(
                f"{name} = {after} was refused: {error.strerror}; it is {change.before}",
                fix=f"sysctl -w {name}='{after}' shows whether the kernel takes it from anybody",
            ) from error
        found = tree.read(change.key).value
        if found is None or (normal(found) == change.before != after):
            raise RunFailed(f"{name} = {after} was taken without an error, but it still is {change.before}")
        if normal(found) != after:
            said.append(f"{name}: the kernel made {normal(found)} of {after}")
        record({**entry, "state": "written", "value": _packed(found)})
    return said


def put_back(entry: Entry, tree: Tree, *, force: bool = False) -> PutBack:
    """Undo one entry of `set_values`, unless somebody else changed the key since (`force`: even then).

    What the kernel refuses is not raised but said in `pending`, as is an entry of another namespace.
    """
    key, was, value = values_of(entry)
    name, state = dotted(key), entry["state"]
    if state == "planned":
        return PutBack()
    if gone := _elsewhere(key, entry["namespace"]):
        return gone
    found = tree.read(key)
    if found.value == was:
        return PutBack()
    if found.value is None:
        if found.problem:
            return PutBack(pending=(f"{name} = {normal(was)}: {found.problem}",))
        return PutBack(kept=(f"{name} is gone from this kernel",))
    if state == "written" and found.value != value and not force:
        return PutBack(
            pending=(
                f"{name} is {normal(found.value)}, not the {normal(value)} that was set: "
                f"somebody changed it since. `connprobe sysctl revert --force` makes it {normal(was)} again",
            )
        )
    try:
        tree.write(key, was)
    except OSError as error:
        return PutBack(pending=(f"{name} cannot be put back to {normal(was)}: {error.strerror}",))
    if (again := tree.read(key).value) != was:
        return PutBack(pending=(f"{name} was put back to {normal(was)}, but reads {again!r}",))
    return PutBack(removed=(f"{name} = {normal(was)}",))


def values_of(entry: Entry) -> tuple[str, str, str]:
    """(key, original value, value that was set) of an entry of `set_values`."""
    return str(entry["key"]), _unpacked(entry["was"]), _unpacked(entry["value"])


def is_elsewhere(entry: Entry) -> bool:
    """Whether an entry of `set_values` is to be put back in another namespace than this process's."""
    return _elsewhere(str(entry["key"]), entry["namespace"]) is not None


def _entry(tree: Tree, change: SysctlChange) -> Entry:
    found = tree.read(change.key).value
    name = dotted(change.key)
    if found is None or normal(found) != change.before:
        raise RunFailed(
            f"{name} was {change.before} a moment ago and is {found}: somebody else changes it now",
            fix="try again",
        )
    kind = namespace_of(change.key)
    return {
        "kind": "sysctl",
        "id": f"sysctl/{change.key}",
        "key": change.key,
        "was": _packed(found),
        "value": _packed(change.after),
        "state": "planned",
        "namespace": identity(kind) if kind else None,
    }


def _elsewhere(key: str, namespace: object) -> PutBack | None:
    """None: the entry is of a namespace of this process, or the key has none."""
    kind = namespace_of(key)
    if kind is None or namespace == identity(kind):
        return None
    name, where = dotted(key), str(namespace)
    if where.partition("/")[0] == identity(kind).partition("/")[0]:  # the inode is used again
        return PutBack(kept=(f"{name}: its network namespace is gone",))
    return PutBack(pending=(f"{name} belongs to the namespace {where}: to be put back from there",))


def _packed(value: str) -> str:
    """Any bytes, as text that JSON takes."""
    return value.encode("utf-8", "surrogateescape").decode("latin-1")


def _unpacked(value: object) -> str:
    return str(value).encode("latin-1").decode("utf-8", "surrogateescape")
