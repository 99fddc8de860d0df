"""The limits of a process's cgroups: in a container they bind long before the machine's do.

A limit on any ancestor binds as well, and it is shared with the ancestor's other members, so the one
with the least left is the one that counts.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_UNLIMITED = 1 << 62  # v1 has no word for it: it is LONG_MAX rounded down to a page (page_counter.h)
V2 = ""  # the v2 hierarchy's name here: it has no controllers in /proc/PID/cgroup

_FILES = {  # resource: (v2 limit, v2 usage, v1 limit, v1 usage)
    "memory": ("memory.max", "memory.current", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    "pids": ("pids.max", "pids.current", "pids.max", "pids.current"),
}


class Hierarchy(NamedTuple):
    """Where a hierarchy is mounted, and which of its cgroups is the root of that mount."""

    mount: PurePosixPath
    root: PurePosixPath


class Place(NamedTuple):
    """One cgroup: `directory` holds its files; `name` is its path in the hierarchy, as far as seen here."""

    directory: Path
    name: str
    version: int  # 1 or 2


class Bound(NamedTuple):
    """A limit and what is used of it."""

    limit: int
    used: int
    place: Place
    file: Path  # the limit's


def tightest(resource: str, pid: int | None = None) -> Bound | None:
    """The bound with the least left among a process's cgroup and its ancestors; None: no limit is set.

    `resource` is "memory" (bytes) or "pids" (threads count too), found in cgroup v2, v1 or both. pid: None
    is this process. OSError: /proc/PID/cgroup cannot be read.
    """
    return min(bounds(resource, places(resource, pid)), key=lambda each: each.limit - each.used, default=None)


def places(resource: str, pid: int | None = None) -> list[Place]:
    """The cgroups of a process that may limit `resource`, its own before its ancestors.

    Where nothing is mounted there are none. OSError: /proc/PID/cgroup cannot be read.
    """
    if pid is None and not Path("/proc/self/cgroup").exists():
        return []  # a kernel without cgroups
    memberships = parse_memberships(Path(f"/proc/{pid or 'self'}/cgroup").read_text(errors="replace"))
    # Paths in /proc/PID/cgroup are told relative to the reader's namespace, and so are the reader's mounts.
    hierarchies = parse_hierarchies(Path("/proc/self/mountinfo").read_text(errors="replace"))
    return places_in(resource, memberships, hierarchies)


def places_in(
    resource: str, memberships: Mapping[str, str], hierarchies: Mapping[str, Hierarchy]
) -> list[Place]:
    """The same, from what was parsed."""
    found = []
    for name in (V2, resource):
        if name in memberships and name in hierarchies:
            mount = hierarchies[name].mount
            for directory in directories(hierarchies[name], memberships[name]):
                path = str(PurePosixPath("/") / directory.relative_to(mount))
                found.append(Place(directory, path, 2 if name == V2 else 1))
    return found


def bounds(resource: str, places: list[Place]) -> list[Bound]:
    """The limits that are set on `places`."""
    v2_limit, v2_used, v1_limit, v1_used = _FILES[resource]
    found = []
    for place in places:
        limit_name, used_name = (v2_limit, v2_used) if place.version == 2 else (v1_limit, v1_used)
        file = place.directory / limit_name
        limit, used = read_limit(file), read_limit(place.directory / used_name)
        if limit is not None and used is not None:
            found.append(Bound(limit, used, place, file))
    return found


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
        names = [V2] if after[0] == "cgroup2" else after[2].split(",")
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


def read_limit(path: Path) -> int | None:
    """The figure in a file of a cgroup. None: unlimited, or there is no such file."""
    try:
        return parse_limit(path.read_text(encoding="ascii"))
    except OSError:
        return None  # the root cgroup has no limits, nor has one whose controller is off


def _unescape(word: str) -> str:
    """mountinfo writes space, tab, newline and backslash as \\ooo (mangle_path in fs/seq_file.c)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)
