"""Profiles in the syntax of sysctl.d(5), read as `sysctl -p` and systemd-sysctl read them. Pure.

What these two skip with a warning, or read each in its own way, is a mistake here, named by line and key:
a profile that works here works there.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from connprobe.errors import RunFailed
from connprobe.plan.sysctl.keys import KEYS, NUMBER, dotted

LARGEST_BYTES = 1 << 20
_SPACE = " \t\r\v\f"


class Assignment(NamedTuple):
    """One line. `key` is the path below /proc/sys, e.g. net/ipv4/conf/eth0.100/rp_filter, or a glob."""

    line: int
    key: str
    value: str
    optional: bool = False  # "-": a failure to set it is none


class Profile(NamedTuple):
    """A file of sysctl.d(5). `about`: its first line of comment."""

    name: str
    source: str
    about: str
    assignments: tuple[Assignment, ...]
    excluded: tuple[str, ...] = ()  # keys that no glob of this file stands for


def parse_profile(name: str, source: str, data: bytes) -> Profile:
    """Read a profile. Raises RunFailed naming the line and the key of the first mistake."""
    assignments: list[Assignment] = []
    excluded: dict[str, int] = {}
    about = ""
    for number, raw in enumerate(data.split(b"\n"), 1):
        if b"\0" in raw:
            raise RunFailed(f"{source}, line {number}: a NUL byte: this is no text file")
        try:
            text = raw.decode().strip(_SPACE)
        except UnicodeDecodeError as error:
            raise RunFailed(f"{source}, line {number}: not UTF-8: this is no text file") from error
        if text.startswith(("#", ";")):
            about = about or text.lstrip("#; \t")
        elif text:
            try:
                found = _line(number, text)
            except ValueError as mistake:
                raise RunFailed(
                    f"{source}, line {number}: {mistake}", fix="KEY = VALUE, as in sysctl.d(5)"
                ) from mistake
            if isinstance(found, str):
                excluded[found] = number
            else:
                assignments.append(found)
    for each in assignments:
        if each.key in excluded:  # sysctl(8) sets it, for systemd-sysctl the later line counts
            raise RunFailed(
                f"{source}, line {excluded[each.key]}: -{dotted(each.key)} excludes what line {each.line} "
                "sets",
                fix="leave one of the two lines out",
            )
    _refuse_patterns_again(source, assignments)
    return Profile(name, source, about, tuple(assignments), tuple(excluded))


def _refuse_patterns_again(source: str, assignments: Sequence[Assignment]) -> None:
    """For sysctl(8) the later line counts; systemd-sysctl takes its value, and the place of the first.

    So they differ in what a pattern between the two sets. Raises RunFailed.
    """
    patterns = [each for each in assignments if is_glob(each.key)]
    first: dict[str, int] = {}
    for index, each in enumerate(patterns):
        begun = first.setdefault(each.key, index)
        if any(other.key != each.key for other in patterns[begun:index]):
            raise RunFailed(
                f"{source}, line {each.line}: {dotted(each.key)} stands in line {patterns[begun].line} too, "
                "and other patterns between them",
                fix="leave one of the two lines out",
            )


def expand(profile: Profile, glob: Callable[[str], Sequence[str]]) -> tuple[Assignment, ...]:
    """What would be set, in this order, each key once: a later line replaces an earlier one.

    glob: the keys of this kernel that a pattern matches. A key that has a line of its own is in no glob.
    """
    own = {each.key for each in profile.assignments if not is_glob(each.key)} | set(profile.excluded)
    result: dict[str, Assignment] = {}
    for each in profile.assignments:
        keys = [key for key in glob(each.key) if key not in own] if is_glob(each.key) else [each.key]
        for key in keys:
            result.pop(key, None)
            result[key] = each._replace(key=key)
    return tuple(result.values())


def is_glob(key: str) -> bool:
    return any(char in key for char in "*?[")


def path_of(key: str) -> str:
    """net.ipv4.conf.eth0/100.rp_filter and net/ipv4/conf/eth0.100/rp_filter -> the latter.

    The first separator tells which form it is; in the dotted one a slash stands for a dot.
    """
    first = re.search(r"[./]", key)
    return key.translate(str.maketrans("./", "/.")) if first and first[0] == "." else key


def _line(number: int, text: str) -> Assignment | str:
    """An assignment, or a key to exclude. Raises ValueError with what is wrong."""
    left, equals, value = text.partition("=")
    left, value = left.strip(_SPACE), value.strip(_SPACE)
    dash = left.startswith("-")
    key = left.removeprefix("-")
    if not equals and not dash:
        raise ValueError(f"{_short(text)} is no assignment")
    path = _checked(key)
    if not equals:
        if is_glob(path):
            raise ValueError(f"{_short(text)} excludes a pattern, where only a key can be excluded")
        return path
    if known := KEYS.get(path):
        words = value.split()
        if len(words) != known.numbers or not all(NUMBER.fullmatch(word) for word in words):
            expected = "a number" if known.numbers == 1 else f"{known.numbers} numbers"
            comment = " (a comment needs a line of its own)" if "#" in value or ";" in value else ""
            raise ValueError(f"{dotted(path)} = {_short(value)}: {expected} expected{comment}")
    return Assignment(number, path, value, dash)


def _checked(key: str) -> str:
    """The path of a key. Raises ValueError for what the two programs disagree on, or leads elsewhere."""
    if not key:
        raise ValueError("the key is missing")
    if key[0] in _SPACE:
        raise ValueError(f"a space between the '-' and {_short(key.strip())}: sysctl(8) knows no such key")
    if key[0] == "-":
        raise ValueError(f"{_short(key)} is no key")
    path = path_of(key)
    parts = path.split("/")
    if not key.isprintable() or any(char.isspace() for char in key):
        raise ValueError(f"{_short(key)} is no key: it contains spaces or control characters")
    if "\\" in key or "[^" in key:
        raise ValueError(f"{_short(key)}: patterns know *, ? and [abc] or [!abc] alone")
    hidden = [part for part in parts if part.startswith(".") and is_glob(part)]
    if hidden or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{_short(key)} is no key below /proc/sys")
    return path


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
