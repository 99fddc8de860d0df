"""maxconn of HAProxy, global and of the frontend that is connected to, from what the running process read.

Measured with HAProxy 2.6.12: at maxconn 500 it serves 500 connections, proxied or not, over all of its
threads; further ones are established by the kernel and wait in the accept queue until one is closed.
Without a global maxconn it takes one from its descriptors (9,985 from 20,000), which its stats socket tells.
"""

import re
import socket
from collections.abc import Sequence
from pathlib import Path

from connprobe.model import Ceiling
from connprobe.observe.declared.haproxyconf import Configuration, Value, parse
from connprobe.observe.procfs import command_line, read_status, read_text, seen_by, unit_of

MOST_BYTES = 16 << 20
MOST_FILES = 1000
ANSWER_S = 2.0


def ceilings(pids: Sequence[int], ports: Sequence[int], between_requests: bool) -> list[Ceiling]:
    """The global maxconn, and that of each frontend which binds one of `ports`.

    OSError, ValueError: neither can be found out.
    """
    del between_requests  # it counts every connection alike
    ours = [pid for pid in pids if read_status(pid).name == "haproxy"]
    if not ours:
        return []
    # The master, where there is one: it has not left its directory for a chroot.
    pid = next(each for each in ours if read_status(each).parent not in ours)
    paths, override = _command(command_line(pid))
    if not paths:
        raise ValueError(f"the command line of HAProxy (pid {pid}) names no configuration (-f)")
    written = _read(pid, paths)
    config = parse(written, _environment(pid))
    if config.conditions and not config.sockets:
        raise ValueError(
            f"{next(iter(written))} has .if lines, which are not evaluated: add a `stats socket`"
        )
    limit, source = _global(pid, config, override)
    found = []
    for frontend in () if config.conditions else config.frontends:
        if frontend.maxconn is not None and any(frontend.binds(port) for port in ports):
            place = f"frontend {frontend.name} ({frontend.where})"
            unsure = None if limit is not None else "the global maxconn, not known, may be lower"
            capacity, where = frontend.maxconn
            found.append(_ceiling(f"HAProxy frontend {frontend.name}", capacity, where, place, pid, unsure))
    if limit is not None:
        place = f"section global of {next(iter(written))}"
        found.append(_ceiling("HAProxy", limit, source, place, pid, None))
    if not found:
        raise ValueError(
            f"HAProxy (pid {pid}) chooses its maxconn from its descriptors and tells it to nobody: set "
            f"maxconn in the section global of {next(iter(written))}, or a `stats socket` there"
        )
    return found


def _ceiling(scope: str, capacity: int, source: str, place: str, pid: int, note: str | None) -> Ceiling:
    waiting = "further connections are established, and wait in the accept queue"
    reload = f"systemctl reload {unit}" if (unit := unit_of(pid)) else "restart it"
    return Ceiling(
        resource="server_config",
        scope=scope,
        capacity=capacity,
        source=source,
        fix=f"maxconn {2 * capacity} in {place}, then {reload}; a proxied one takes two descriptors",
        per_connection=1,
        unit="connections",
        note=f"{waiting}; {note}" if note else waiting,
    )


def _command(words: Sequence[str]) -> tuple[list[str], Value | None]:
    """(configuration files and directories, maxconn by -n) of a command line."""
    paths: list[str] = []
    override = None
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        if word == "--":
            paths += rest
            break
        if word in ("-f", "-n", "-C") and rest:
            value = rest.pop(0)
            if word == "-f":
                paths.append(value)
            elif word == "-n" and value.isdecimal():
                override = Value(int(value), "-n on the command line")
    return paths, override


def _read(pid: int, paths: Sequence[str]) -> dict[Path, str]:
    """The texts, bounded, of files and of the *.cfg in directories, as HAProxy reads them."""
    found: dict[Path, str] = {}
    left = MOST_BYTES
    for path in map(Path, paths):
        place = seen_by(pid, path)
        each_of = [path / each.name for each in sorted(place.glob("*.cfg"))] if place.is_dir() else [path]
        for file in each_of:
            with seen_by(pid, file).open("rb") as stream:
                content = stream.read(left + 1)
            left -= len(content)
            found[file] = content.decode(errors="replace")
            if left < 0 or len(found) > MOST_FILES:
                raise ValueError(
                    f"{file}: more than {MOST_BYTES >> 20} MB or {MOST_FILES} files of configuration"
                )
    return found


def _global(pid: int, config: Configuration, override: Value | None) -> tuple[int | None, str]:
    """What the process says, as it may be changed while it runs; or else what it was given."""
    for path in config.sockets:
        told = ask_maxconn(seen_by(pid, path))
        if told is not None:
            written = f", {config.maxconn.where}" if config.maxconn and config.maxconn.number == told else ""
            return told, f"`show info` of {path}{written}"
    value = override or config.maxconn
    return (value.number, value.where) if value is not None else (None, "")


def ask_maxconn(path: Path) -> int | None:
    """Maxconn of `show info`, from a stats socket. None: it does not answer, or not with that."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(ANSWER_S)
            asked.connect(str(path))
            asked.sendall(b"show info\n")
            while len(answer) < 1 << 16 and (data := asked.recv(4096)):
                answer += data
    except OSError:
        return None
    found = re.search(rb"^Maxconn: ([0-9]{1,18})$", answer, re.MULTILINE)
    return int(found[1]) if found else None


def _environment(pid: int) -> dict[str, str]:
    try:
        pairs = [each.partition("=") for each in read_text(pid, "environ").split("\0")]
    except OSError:
        return {}
    return {name: value for name, _, value in pairs}
