"""A suite from its file, with the templates it names; and what this machine lacks for it."""

import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from connprobe.data import data_dir
from connprobe.errors import UsageError
from connprobe.model import Obstacle
from connprobe.model.bout import CompareRequest
from connprobe.model.suite import Backend, Contestant, Program, Suite
from connprobe.plan.suites import template
from connprobe.plan.suites.suite import names_of, parse_suite, refused
from connprobe.report import format as fmt
from connprobe.session.certificate import OPENSSL, openssl
from connprobe.session.outcome import CREDENTIAL
from connprobe.store import files
from connprobe.targets import find_program

MOST_BYTES = 1 << 20  # of a suite, and of a template
VERSION_S, VERSION_BYTES = 10.0, 4096
NOT_RECORDED = "(not recorded)"
P = TypeVar("P", bound=Program)


def read_suite(path: Path) -> Suite:
    """Its `files` hold the templates themselves. Raises UsageError with the line and key of a mistake."""
    if re.search("[\ud800-\udfff]", str(path.absolute())):
        raise UsageError(
            f"{str(path.absolute())!r} is not UTF-8: what has to be resumed could not be kept",
            fix="rename it",
        )
    text = _read(path, f"{path}", "name a suite file, such as targets/balancerbattle.toml")
    suite = parse_suite(text, str(path))
    changed = []
    for key, programs in (("contestant", suite.contestants), ("backend", suite.backend_programs)):
        for index, program in enumerate(programs):
            filled = {}
            for name, source in program.files.items():
                where = (key, index, "files", name)
                file = place_of(path) / template.fill(source, early(place_of(path)))
                try:
                    filled[name] = _read(file, str(file), "")
                    template.check(filled[name], names_of(suite, program))
                except UsageError as error:
                    raise refused(text, str(path), where, error.message) from None
                except template.BadTemplate as error:
                    raise refused(text, str(path), where, f"{file}, line {error.line}: {error}") from None
            changed.append(replace(program, files=filled))
    count = len(suite.contestants)
    contestants = msgspec.convert(changed[:count], tuple[Contestant, ...])
    backends = msgspec.convert(changed[count:], tuple[Backend, ...])
    return replace(suite, contestants=contestants, backend_programs=backends)


def without_secrets(suite: Suite) -> Suite:
    """As it is recorded and passed on: no template's text, no variable's value that may be a credential."""
    return replace(
        suite,
        contestants=tuple(map(_without_secrets, suite.contestants)),
        backend_programs=tuple(map(_without_secrets, suite.backend_programs)),
    )


def _without_secrets(program: P) -> P:
    return replace(
        program,
        files=dict.fromkeys(program.files, NOT_RECORDED),
        environment={
            name: NOT_RECORDED if re.search(CREDENTIAL, name.lower()) else text
            for name, text in program.environment.items()
        },
    )


def find_suite(path: Path) -> Path:
    """`balancerbattle` is the suite of that name in targets/, where no file is called that."""
    if path.name == str(path) and not path.suffix and not path.exists():
        with suppress(FileNotFoundError):
            ours = data_dir("targets") / f"{path.name}.toml"
            return ours if ours.is_file() else path
    return path


def place_of(path: Path) -> Path:
    """${suite}: where the suite file is."""
    return path.absolute().parent


def _read(path: Path, named: str, fix: str) -> str:
    try:
        return files.read_file(path, most=MOST_BYTES).decode()
    except OSError as error:
        raise UsageError(f"{named} cannot be read: {error.strerror or error}", fix=fix) from None
    except UnicodeDecodeError:
        raise UsageError(f"{named} is not UTF-8", fix=fix) from None
    except ValueError as error:  # a NUL in its path
        raise UsageError(f"{fmt.printable(named)} cannot be read: {error}", fix=fix) from None


def early(place: Path) -> dict[str, str]:
    """What ${...} is before anything is started."""
    return {"suite": str(place), "home": str(Path.home()), "python": sys.executable}


def missing(request: CompareRequest) -> dict[str, tuple[Obstacle, ...]]:
    """By contestant (its name and protocol), all that keeps it from taking part."""
    values = early(Path(request.place))
    found: dict[str, tuple[Obstacle, ...]] = {}
    for contestant in request.suite.contestants:
        programs = (*request.suite.backends_of(contestant), contestant)
        lacks = [it for program in programs for it in _lacks(program, contestant, values)]
        if lacks:
            found[key_of(contestant)] = tuple(dict.fromkeys(lacks))
    return found


def key_of(contestant: Contestant) -> str:
    """What tells contestants of one name apart."""
    return f"{contestant.name} ({contestant.protocol}{' over TLS' if contestant.tls else ''})"


def _lacks(program: Program, contestant: Contestant, values: Mapping[str, str]) -> Iterator[Obstacle]:
    what = f"contestant {key_of(contestant)}"
    fix = program.install or "install it, or name it by its path in the suite"
    command = template.fill(program.command[0], {**_PLACEHOLDERS, **values})
    if "/" in command and Path(command).is_file() and not os.access(command, os.X_OK):
        chmod = f"chmod +x {shlex.quote(command)}"
        yield Obstacle(what=what, have=f"{command} is not executable", need=command, fix=chmod)
    elif find_program(command) is None:
        yield Obstacle(what=what, have=f"no program {command}", need=command, fix=fix)
    for text in program.requires:
        path = template.fill(text, values)
        if not os.path.lexists(path):
            yield Obstacle(what=what, have=f"no {path}", need=path, fix=fix)
    if contestant.tls and openssl() is None:
        yield Obstacle(
            what=what, have=f"no program {OPENSSL}", need="a certificate", fix="apt-get install openssl"
        )


_PLACEHOLDERS = dict.fromkeys((*template.ALWAYS, *template.BEHIND, *template.TLS), "")


def versions(request: CompareRequest, programs: Iterator[Program]) -> dict[str, str]:
    """The first line that each says of its version; a program that does not say it is left out."""
    found = {}
    for program in programs:
        if program.version and program.name not in found:
            words = [template.fill(word, early(Path(request.place))) for word in program.version]
            path = find_program(words[0])
            said = _said([path, *words[1:]]) if path is not None else None
            if said:
                found[program.name] = said
    return found


def _said(command: list[str]) -> str | None:
    """No more is read than its first line can have: what it prints may have no end."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except (OSError, ValueError):
        return None
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.fileno(), process.stderr.fileno()
        said, open_ = {out: b"", err: b""}, {out, err}
        deadline = time.monotonic() + VERSION_S
        while open_ and len(said[out]) < VERSION_BYTES and (left := deadline - time.monotonic()) > 0:
            for fd in select.select(open_, [], [], left)[0]:
                data = os.read(fd, VERSION_BYTES)
                said[fd] = (said[fd] + data)[:VERSION_BYTES]
                if not data:
                    open_.discard(fd)
        if open_ and len(said[out]) < VERSION_BYTES:
            said.clear()
        process.kill()
    lines = (said.get(out) or said.get(err) or b"").decode(errors="replace").strip().splitlines()
    return lines[0][:200] if lines else None
