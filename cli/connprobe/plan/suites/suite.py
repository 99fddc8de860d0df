"""A suite file as a record, or what is wrong in it, with its line and key. Pure."""

import re
import tomllib
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from connprobe.errors import UsageError
from connprobe.model.suite import Contestant, Program, Suite, Workload, serves
from connprobe.plan.message import parse_message
from connprobe.plan.suites import template
from connprobe.plan.suites.toml_line import line_of

Path = tuple[str | int, ...]
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`)?$", re.DOTALL)
_PART = re.compile(r"\.([A-Za-z0-9_]+)|\[([0-9]+|\.\.\.)\]")
_FIELD = re.compile(r"unknown field `([^`]+)`")
_REGEX = re.compile(r"regex ('.*')$")
MOST_WORD_BYTES = 120_000  # MAX_ARG_STRLEN is 131,072: room for what ${...} becomes
FIX = "docs/compare.md describes every key"


class Mistake(NamedTuple):
    path: Path
    what: str


def parse_suite(text: str, file: str) -> Suite:
    """`file`: as it is named in errors. Raises UsageError with file, line and key."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        what = str(error)[: place.start()] if place else str(error)
        where = f", line {place[1]}, column {place[2]}" if place else ""
        raise UsageError(f"{file}{where}: {what}", fix="it has to be TOML: toml.io") from None
    except RecursionError:
        raise UsageError(f"{file}: its arrays or tables are nested too deeply", fix=FIX) from None
    try:
        suite = msgspec.convert(data, Suite)
    except msgspec.ValidationError as error:
        raise refused(text, file, *_understood(str(error), data)) from None
    for mistake in mistakes(suite):
        raise refused(text, file, *mistake)
    return suite


def refused(text: str, file: str, path: Path, what: str) -> UsageError:
    """The error of one mistake."""
    line = line_of(text, path)
    where = f"{file}, line {line}" if line is not None else file
    key = f": {shown(path)}" if path else ""
    return UsageError(f"{where}{key}: {what}", fix=FIX)


def shown(path: Path) -> str:
    """`contestant[2].tls`, counted from 1 as one counts in a file."""
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _understood(message: str, data: object) -> Mistake:
    """msgspec's "Expected `int`, got `str` - at `$.contestant[2].tls`"; `data`: what that is in."""
    found = _AT.match(message)
    assert found is not None
    path: list[str | int] = []
    for name, index in _PART.findall(found["path"] or ""):
        if index == "...":
            path += _keys(data, path, lambda _, value: not isinstance(value, str))
            break
        path.append(name or int(index))
    what = found["what"]
    if found["key"]:
        wanted = _REGEX.search(what)
        path += _keys(
            data, path, lambda key, _: wanted is not None and not re.search(literal_eval(wanted[1]), key)
        )
        what = f"this key: {what[0].lower()}{what[1:]}"
    if (field := _FIELD.search(what)) is not None:
        path.append(field[1])
        what = "there is no such key"
    return Mistake(tuple(path), what[0].lower() + what[1:])


def _keys(data: object, path: Path | list[str | int], is_wrong: Callable[[str, object], bool]) -> list[str]:
    """The first wrong key of the table at `path`, which msgspec does not name; [] where it is not found."""
    table: Any = data
    for part in path:
        table = table[part]
    items = table.items() if isinstance(table, dict) else ()
    return [key for key, value in items if is_wrong(key, value)][:1]


def mistakes(suite: Suite, *, filled: bool = False) -> Iterator[Mistake]:
    """What the types do not say. filled: its `files` hold the templates, not their paths."""
    yield from _repeated(("sizes",), suite.sizes)
    yield from _same_name("workload", [(it.name,) for it in suite.workloads])
    yield from _same_name("backend", [(it.name,) for it in suite.backend_programs])
    yield from _same_name("contestant", [(it.name, it.protocol, it.tls) for it in suite.contestants])
    for index, workload in enumerate(suite.workloads):
        yield from _of_workload(("workload", index), workload, suite)
    for index, contestant in enumerate(suite.contestants):
        yield from _of_contestant(("contestant", index), contestant, suite, filled)
    for index, backend in enumerate(suite.backend_programs):
        if not any(backend.name in it.backends for it in suite.contestants):
            yield Mistake(("backend", index), f"no contestant has {backend.name!r} among its backends")
        yield from _templates(("backend", index), backend, names_of(suite, backend), filled)


def _of_workload(where: Path, workload: Workload, suite: Suite) -> Iterator[Mistake]:
    if workload.message is not None:
        if workload.protocol == "http":
            yield Mistake((*where, "message"), "with HTTP a message is the request once more")
        if workload.message.startswith("@"):
            yield Mistake((*where, "message"), "a suite reads no file for it: write the text, or a size")
        try:
            parse_message(workload.message, "message")
        except UsageError as error:
            yield Mistake((*where, "message"), error.message)
    there = [index for index, it in enumerate(suite.contestants) if serves(it, workload)]
    if not there:
        yield Mistake(where, f"no contestant has {_kind(workload)}")
    for second in [index for index in there if suite.contestants[index].control][1:]:
        what = f"the workload {workload.name!r} has two controls"
        yield Mistake(("contestant", second, "control"), what)


def _of_contestant(where: Path, contestant: Contestant, suite: Suite, filled: bool) -> Iterator[Mistake]:
    if not any(serves(contestant, it) for it in suite.workloads):
        yield Mistake(where, f"no workload has {_kind(contestant)}")
    known = {it.name for it in suite.backend_programs}
    for name in contestant.backends:
        if name not in known:
            yield Mistake((*where, "backends"), f"there is no [[backend]] {name!r}")
    yield from _repeated((*where, "backends"), contestant.backends)
    yield from _templates(where, contestant, names_of(suite, contestant), filled)


def _kind(it: Workload | Contestant) -> str:
    return f'protocol = "{it.protocol}" and tls = {"true" if it.tls else "false"}'


def _same_name(key: str, names: Sequence[tuple[object, ...]]) -> Iterator[Mistake]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Mistake((key, index, "name"), f"there is another {key} {name[0]!r}")


def _repeated(path: Path, values: Sequence[object]) -> Iterator[Mistake]:
    for value, times in Counter(values).items():
        if times > 1:
            yield Mistake(path, f"{value} is there twice")


def names_of(suite: Suite, program: Program) -> tuple[str, ...]:
    """What ${...} may name in a program's templates: the port of a backend only where one is always there."""
    names = template.ALWAYS
    if isinstance(program, Contestant):
        behind, tls = bool(program.backends), program.tls
    else:
        users = [it for it in suite.contestants if program.name in it.backends]
        behind = all(it.backends.index(program.name) for it in users)
        tls = all(it.tls for it in users)
    return (*names, *(template.BEHIND if behind else ()), *(template.TLS if tls else ()))


def _templates(where: Path, program: Program, known: Sequence[str], filled: bool) -> Iterator[Mistake]:
    for key, paths in (
        ("command", program.command[:1]),
        ("version", program.version[:1]),
        ("requires", program.requires),
    ):
        for text in paths:
            if ("/" in text or key == "requires") and not text.startswith(("/", "${")):
                beside = f"${{suite}}/{text.removeprefix('./')}"
                what = f"{text} would be looked for in the working directory: write {beside}"
                yield Mistake((*where, key), what)
    words: list[tuple[Path, str]] = [
        *((("command",), text) for text in (*program.command, *program.version)),
        *((("environment", name), f"{name}={text}") for name, text in program.environment.items()),
    ]
    for path, text in words:
        if len(text.encode()) > MOST_WORD_BYTES:
            yield Mistake((*where, *path), f"a word of more than {MOST_WORD_BYTES:,} bytes starts no program")
    texts: list[tuple[Path, str]] = [(("command",), text) for text in program.command]
    texts += [(("environment", name), text) for name, text in program.environment.items()]
    early: list[tuple[Path, str]] = [(("requires",), text) for text in program.requires]
    early += [(("version",), text) for text in program.version]
    (texts if filled else early).extend((("files", name), text) for name, text in program.files.items())
    for path, text, names in (
        *((*it, known) for it in texts),
        *((*it, ("suite", "home", "python")) for it in early),
    ):
        if "\0" in text and path[0] != "files":
            yield Mistake((*where, *path), "a NUL cannot be passed on to a program")
        try:
            template.check(text, names)
        except template.BadTemplate as error:
            yield Mistake((*where, *path), str(error))
