"""Which runtime a process runs on, by its executable and what it has mapped, without asking the process."""

import re
import struct
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from connprobe.observe.procfs import command_line, read_text

MOST_SECTIONS: Final = 1000
MOST_NAMES: Final = 1 << 20  # bytes
GO_SECTIONS: Final = (b".go.buildinfo", b".note.go.buildid")  # the second one since Go 1.5, stripped or not

# They start a server, and would be opened and collected for nothing. npm writes over its arguments.
HELPERS: Final = frozenset({"npm", "npx", "yarn", "yarnpkg", "pnpm", "pnpx", "corepack"})

_HEADER = struct.Struct("=16s2HI3QI6H")  # Elf64_Ehdr
_SECTION = struct.Struct("=2I4Q2I2Q")  # Elf64_Shdr


class Recognised(NamedTuple):
    """kind: node, jvm, cpython or go."""

    kind: str
    version: str | None = None


def recognise(pid: int) -> Recognised | None:
    """None: nothing that is known. OSError: the process is gone, or another user's."""
    name = Path(f"/proc/{pid}/exe").readlink().name.removesuffix(" (deleted)")
    for pattern, kind in (
        (r"(?:node|nodejs)[\d.-]*", "node"),
        (r"java", "jvm"),
        (r"python([\d.]*)", "cpython"),
    ):
        match = re.fullmatch(pattern, name)
        if match:
            return Recognised(kind, (match[1] or None) if match.groups() else None)
    embedded = re.search(r"/lib(?:(jvm)|python(3\.\d+))\.so", read_text(pid, "maps"))
    if embedded:
        return Recognised("jvm") if embedded[1] else Recognised("cpython", embedded[2])
    with Path(f"/proc/{pid}/exe").open("rb") as file:
        return Recognised("go") if is_go(file) else None


def is_helper(pid: int) -> bool:
    """Whether a Node process is npm or the like. OSError: it is gone."""
    words = " ".join(command_line(pid)[:2]).split()[:2]
    return any(re.sub(r"(-cli)?\.[cm]?js$", "", Path(word).name) in HELPERS for word in words)


def is_go(file: BinaryIO) -> bool:
    """By the names of the sections of an ELF file of this machine's word size and byte order."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(b"\x7fELF\x02"):
        return False
    *_, sections_at, _, _, _, _, size, count, names_index = _HEADER.unpack(header)
    if size != _SECTION.size or not names_index < count <= MOST_SECTIONS:
        return False
    try:
        file.seek(sections_at + names_index * size)
        section = file.read(size)
        if len(section) < size:
            return False
        _, _, _, _, names_at, length, *_ = _SECTION.unpack(section)
        file.seek(names_at)
    except (OSError, ValueError, OverflowError):  # an offset that no file has
        return False
    names = file.read(min(length, MOST_NAMES)).split(b"\0")
    return any(name in names for name in GO_SECTIONS)


def environment_variable(pid: int, name: str) -> str | None:
    """As the process was started with it. OSError: another user's."""
    for entry in read_text(pid, "environ").split("\0"):
        found, _, value = entry.partition("=")
        if found == name:
            return value
    return None
