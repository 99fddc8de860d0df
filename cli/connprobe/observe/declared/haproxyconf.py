"""The configuration of HAProxy, as far as it limits connections: global, defaults, frontends and listens."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_SECTIONS = frozenset(
    [
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "peers",
        "resolvers",
        "mailers",
        "userlist",
        "cache",
        "program",
        "ring",
        "http-errors",
        "log-forward",
        "fcgi-app",
        "crt-store",
        "traces",
        "log-profile",
    ]
)
_WORD = re.compile(
    r"""\s+ | (?P<comment>\#.*) | (?P<word>(?:\\. | "(?:[^"\\]|\\.)*" | '[^']*' | [^\s\\"'\#])+)""",
    re.VERBOSE,
)
_PIECE = re.compile(
    r"""\\(?P<escaped>.) | "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>[^']*)' | (?P<plain>.)""", re.VERBOSE
)


class Value(NamedTuple):
    """A number and where it stands ("/etc/haproxy/haproxy.cfg:12")."""

    number: int
    where: str


class Frontend(NamedTuple):
    """A frontend or a listen. ports: those it binds; maxconn: its own, or that of its defaults."""

    name: str
    ports: tuple[range, ...]
    maxconn: Value | None
    where: str

    def binds(self, port: int) -> bool:
        return any(port in each for each in self.ports)


class Configuration(NamedTuple):
    """sockets: paths of `stats socket`. conditions: there are .if lines, of which every branch was read:
    what the frontends say may not hold."""

    maxconn: Value | None
    frontends: tuple[Frontend, ...]
    sockets: tuple[str, ...]
    conditions: bool


def parse(files: Mapping[Path, str], environment: Mapping[str, str]) -> Configuration:
    """From the texts of all files, in the order in which they are given to HAProxy.

    ValueError: a maxconn that is no number.
    """
    limit: Value | None = None
    frontends: list[Frontend] = []
    sockets: list[str] = []
    named: dict[str, Value | None] = {}
    defaults: Value | None = None
    section, conditions = "", False
    for file, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            words, where = _words(line, environment), f"{file}:{number}"
            if not words:
                continue
            name, arguments = words[0], words[1:]
            conditions |= name == ".if"
            if name in _SECTIONS:
                section = name
                inherited = (
                    named.get(arguments[2]) if arguments[1:2] == ["from"] and arguments[2:] else defaults
                )
                if section == "defaults":
                    defaults = inherited if arguments[1:2] == ["from"] else None
                    named.update(dict.fromkeys(arguments[:1], defaults))
                    naming = arguments[:1]
                elif section in ("frontend", "listen"):
                    frontends.append(Frontend(arguments[0] if arguments else "", (), inherited, where))
                    for address in arguments[1:2]:  # the old way: listen NAME ADDRESS
                        frontends[-1] = frontends[-1]._replace(ports=_ports(address))
            elif name == "maxconn" and arguments:
                value = Value(_number(arguments[0], where), where)
                if section == "global":
                    limit = value
                elif section == "defaults":
                    defaults = value
                    named.update(dict.fromkeys(naming, value))
                elif section in ("frontend", "listen"):
                    frontends[-1] = frontends[-1]._replace(maxconn=value)
            elif name == "bind" and section in ("frontend", "listen") and arguments:
                frontends[-1] = frontends[-1]._replace(ports=frontends[-1].ports + _ports(arguments[0]))
            elif section == "global" and name == "stats" and arguments[:1] == ["socket"] and arguments[1:]:
                sockets.append(arguments[1].removeprefix("unix@"))
    return Configuration(
        limit, tuple(frontends), tuple(each for each in sockets if each.startswith("/")), conditions
    )


def _words(line: str, environment: Mapping[str, str]) -> list[str]:
    found, at = [], 0
    while match := _WORD.match(line, at):
        if match["comment"] is not None:
            break
        if match["word"] is not None:
            found.append("".join(_piece(piece, environment) for piece in _PIECE.finditer(match["word"])))
        at = match.end()
    return found


def _piece(piece: re.Match[str], environment: Mapping[str, str]) -> str:
    """Variables stand for their values within double quotes alone."""
    if piece["double"] is None:
        return next(part for part in piece.group("escaped", "single", "plain") if part is not None)

    def value(match: re.Match[str]) -> str:
        return environment.get(match["name"] or match["braced"], match["default"] or "")

    text = re.sub(r"\$(?:(?P<name>\w+)|\{(?P<braced>\w+)(?:-(?P<default>[^}]*))?\})", value, piece["double"])
    return re.sub(r"\\(.)", r"\1", text)


def _ports(addresses: str) -> tuple[range, ...]:
    """ "10.0.0.1:80,:8000-8010" as ranges; what is no address with a port (a socket's path) gives none."""
    found = []
    for address in addresses.split(","):
        match = re.search(r":(\d{1,5})(?:-(\d{1,5}))?$", address)
        if match and not address.startswith(("/", "unix@", "abns@", "fd@", "sockpair@")):
            found.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(found)


def _number(word: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", word):
        raise ValueError(f"{where}: maxconn {word!r} is not a number")
    return int(word)
