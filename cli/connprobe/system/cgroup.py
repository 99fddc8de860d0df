"""The limits of this process's own cgroup: in a container they bind long before the machine's do.

A limit on any ancestor binds as well, and it is shared with the ancestor's other members, so the one
with the least left is the one that counts.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_UNLIMITED = 1 << 62  # v1 has no word for it: it is LONG_MAX rounded down to a page (page_counter.h)
_V2 = ""  # the v2 hierarchy's name here: it has no controllers in /proc/self/cgroup

_FILES = {  # resource: (v2 limit, v2 usage, v1 limit, v1 usage)
    "memory": ("memory.max", "memory.current", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    "pids": ("pids.max", "pids.current", "pids.max", "pids.current"),
}


class Bound(NamedTuple):
    """A limit and what is used of it."""

    limit: int
    used: int


class Hierarchy(NamedTuple):
    """Where a hierarchy is mounted, and which of its cgroups is the root of that mount."""

    mount: PurePosixPath
    root: PurePosixPath


def tightest(resource: str) -> Bound | None:
    """The bound with the least left among this process's cgroup and its ancestors; None: no limit is set.

    `resource` is "memory" (bytes) or "pids" (threads count too), found in cgroup v2, v1 or both.
    """
    try:
        memberships = parse_memberships(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
        hierarchies = parse_hierarchies(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    except OSError:
        return None  # a kernel without cgroups
    v2_limit, v2_used, v1_limit, v1_used = _FILES[resource]
    found = []
    for name, limit_name, used_name in ((_V2, v2_limit, v2_used), (resource, v1_limit, v1_used)):
        if name in memberships and name in hierarchies:
            for place in directories(hierarchies[name], memberships[name]):
                limit, used = _read(place / limit_name), _read(place / used_name)
                if limit is not None and used is not None:
                    found.append(Bound(limit, used))
    return min(found, key=lambda bound: bound.limit - bound.used, default=None)


def parse_memberships(text: str) -> dict[str, str]:
    """/proc/PID/cgroup: controller (v1) or "" (v2) to the cgroup's path."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number and path:
            found.update(dict.fromkeys(controllers.split(","), path))
    return found


def parse_hierarchies(text: str) -> dict[str, Hierarchy]:
    """/proc/PID/mountinfo: controller (v1) or "" (v2) to where its hierarchy is mounted."""
    found: dict[str, Hierarchy] = {}
    for line in text.splitlines():
        fields, _, options = line.partition(" - ")
        before, after = fields.split(" "), options.split(" ")
        if len(before) < 5 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):
            continue
        hierarchy = Hierarchy(PurePosixPath(_unescape(before[4])), PurePosixPath(_unescape(before[3])))
        names = [_V2] if after[0] == "cgroup2" else after[2].split(",")
        for name in names:
            found.setdefault(name, hierarchy)
    return found


def directories(hierarchy: Hierarchy, path: str) -> Iterator[Path]:
    """The directories of a cgroup and its ancestors, up to the mount.

    A path outside the mount's root (a container without a cgroup namespace, a process moved away) shows
    as the mount itself: what is above cannot be seen from here.
    """
    inside = PurePosixPath(path)
    relative = PurePosixPath()
    if inside.is_relative_to(hierarchy.root) and ".." not in inside.parts:
        relative = inside.relative_to(hierarchy.root)
    for each in (relative, *relative.parents):
        yield Path(hierarchy.mount / each)


def parse_limit(text: str) -> int | None:
    """A limit file's figure. None: unlimited, which v2 writes as "max" and v1 as a huge number."""
    word = text.strip()
    if not re.fullmatch(r"[0-9]+", word) or int(word) >= _UNLIMITED:
        return None
    return int(word)


def _read(path: Path) -> int | None:
    try:
        return parse_limit(path.read_text(encoding="ascii"))
    except OSError:
        return None  # the root cgroup has no limits, nor has one whose controller is off


def _unescape(word: str) -> str:
    """mountinfo writes space, tab, newline and backslash as \\ooo (mangle_path in fs/seq_file.c)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)
