"""What /proc tells about one process that decides which limits bind it: its limits, user, rights and unit."""

import re
from pathlib import Path
from typing import NamedTuple

from connprobe.plan.capabilities import effective_capabilities

MOST_BYTES = 1 << 20  # of one file
_UNLIMITED = 1 << 62


class ResourceLimit(NamedTuple):
    """None: unlimited."""

    soft: int | None
    hard: int | None

    def raising(self, soft: int) -> str:
        """SOFT:HARD for prlimit(1) and systemd. The hard one is never lowered: that is not easily undone."""
        if self.hard is None:
            return f"{soft}:unlimited"
        return f"{soft}:{max(soft, self.hard)}"


class Status(NamedTuple):
    """uid: the real one. capabilities: effective ones, none in a user namespace: they count there alone."""

    name: str
    parent: int
    uid: int
    capabilities: tuple[str, ...]


def read_limits(pid: int) -> dict[str, ResourceLimit]:
    """/proc/PID/limits by its names ("Max open files"). OSError: gone, or another user's."""
    found = {}
    for line in read_text(pid, "limits").splitlines():
        match = re.match(r"(Max [a-z ]+?) {2,}(unlimited|\d+) +(unlimited|\d+)\b", line)
        if match:
            found[match[1]] = ResourceLimit(_limit(match[2]), _limit(match[3]))
    return found


def read_status(pid: int) -> Status:
    """/proc/PID/status. OSError: it is gone. ValueError: it cannot be understood."""
    text = read_text(pid, "status")
    fields = dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))
    try:
        name, parent, uid = fields["Name"], int(fields["PPid"]), int(fields["Uid"].split()[0])
    except (KeyError, IndexError) as error:
        raise ValueError(f"/proc/{pid}/status has no {error}") from error
    return Status(name, parent, uid, effective_capabilities(text) if _initial_users(pid) else ())


def command_line(pid: int) -> list[str]:
    """The arguments, as the process left them (it may write over them). Empty: it left none."""
    return read_text(pid, "cmdline").rstrip("\0").split("\0")


def unit_of(pid: int) -> str | None:
    """The systemd service that a process belongs to, by its cgroup."""
    try:
        text = read_text(pid, "cgroup")
    except OSError:
        return None
    found = re.findall(r"^(?:0::|\d+:name=systemd:).*?/([\w@.:\\-]+\.service)(?:/|$)", text, re.MULTILINE)
    return found[-1] if found else None


def seen_by(pid: int, path: str | Path) -> Path:
    """Where a path that a process names is found from here: below its root where it has mounts of its own."""
    proc = Path("/proc")
    path = Path(path)
    try:
        if not path.is_absolute():
            path = (proc / str(pid) / "cwd").readlink() / path
        ours = (proc / "self/ns/mnt").readlink() == (proc / str(pid) / "ns/mnt").readlink()
    except OSError:
        return path
    return path if ours else proc / str(pid) / "root" / path.relative_to("/")


def read_text(pid: int, name: str) -> str:
    with Path(f"/proc/{pid}/{name}").open("rb") as file:
        return file.read(MOST_BYTES).decode(errors="replace")


def _limit(word: str) -> int | None:
    return None if word == "unlimited" or int(word) >= _UNLIMITED else int(word)


def _initial_users(pid: int) -> bool:
    try:
        return read_text(pid, "uid_map").split() == ["0", "0", "4294967295"]
    except OSError:
        return True  # a kernel without user namespaces
