"""The configuration of nginx: its syntax, with includes followed, in bounds. Nothing is run to read it."""

import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

MOST_FILES = 1000
MOST_BYTES = 16 << 20  # of all files
MOST_BINARY = 256 << 20
MOST_DEPTH = 100  # of blocks

_TOKEN = re.compile(
    r"""[ \t\r\n]+ | \#[^\n]* | (?P<punctuation>[;{}])
      | "(?P<double>(?:[^"\\]|\\.)*)" | '(?P<single>(?:[^'\\]|\\.)*)'
      | (?P<word>(?:\\.|\$\{[^}\s]*\}|[^\s;{}\\])+)""",
    re.VERBOSE | re.DOTALL,
)


class Directive(NamedTuple):
    """`blocks`: those it stands in, outermost first. words: its name and its arguments."""

    blocks: tuple[str, ...]
    words: tuple[str, ...]
    file: Path
    line: int

    @property
    def name(self) -> str:
        return self.words[0]


def read(file: Path, seen: Callable[[Path], Path] = lambda path: path, extra: str = "") -> list[Directive]:
    """All directives of a configuration and of what it includes, in the order that nginx reads them.

    seen: where a path of the configuration is found from here. extra: directives of the command line (-g),
    which come first. OSError: the file cannot be read. ValueError: it is none, or beyond all bounds.
    """
    reader = _Reader(file.parent, seen)
    found = list(reader.parse(extra, Path("-g"), ())) if extra else []
    return [*found, *reader.file(file, ())]


def built_with(binary: Path) -> dict[str, str]:
    """The configure arguments in an nginx binary: {"prefix": "/usr/share/nginx", "conf-path": ...}.

    Found as the text that `nginx -V` prints: a server's binary is not run for this. OSError.
    """
    with binary.open("rb") as file:
        size = min(MOST_BINARY, binary.stat().st_size)
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
            at = content.find(b"configure arguments: ")
            text = content[at : at + 16384].partition(b"\0")[0].decode(errors="replace") if at >= 0 else ""
    return dict(re.findall(r"--(prefix|conf-path)=(\S+)", text))


def configuration(arguments: str, built: Mapping[str, str]) -> tuple[Path, str]:
    """(the file, directives of -g) that a command line names; `built` gives what it leaves out."""
    options = dict(re.findall(r"(?:^|\s)-([cpg])\s*(.*?)(?=\s-[a-zA-Z?]|$)", arguments))
    prefix = Path(options.get("p", built.get("prefix", "/usr/local/nginx")))
    return prefix / options.get("c", built.get("conf-path", "conf/nginx.conf")), options.get("g", "")


class _Reader:
    def __init__(self, folder: Path, seen: Callable[[Path], Path]) -> None:
        self._folder, self._seen = folder, seen
        self._files = self._bytes = 0

    def file(self, path: Path, blocks: tuple[str, ...]) -> Iterator[Directive]:
        self._files += 1
        with self._seen(path).open("rb") as file:
            content = file.read(MOST_BYTES - self._bytes + 1)
        self._bytes += len(content)
        if self._files > MOST_FILES or self._bytes > MOST_BYTES:
            raise ValueError(
                f"{path}: more than {MOST_FILES} files or {MOST_BYTES >> 20} MB of configuration"
            )
        yield from self.parse(content.decode(errors="replace"), path, blocks)

    def parse(self, text: str, path: Path, blocks: tuple[str, ...]) -> Iterator[Directive]:
        inside, words, at, line = list(blocks), list[str](), 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(f"{path}:{line}: not the syntax of nginx")
            began, at = line, match.end()
            line += match[0].count("\n")
            if match["punctuation"] is None:
                word = next(
                    (part for part in match.group("double", "single", "word") if part is not None), None
                )
                words += [] if word is None else [word]
                continue
            if match[0] == "}":
                if len(inside) <= len(blocks):
                    raise ValueError(f"{path}:{line}: a block ends that never began")
                inside.pop()
            elif words:
                directive = Directive(tuple(inside), tuple(words), path, began)
                yield directive
                if match[0] == "{" and words[0].endswith("_by_lua_block"):
                    end = _end_of_block(text, at)
                    line += text.count("\n", at, end)
                    at = end
                elif match[0] == "{":
                    if len(inside) >= MOST_DEPTH:
                        raise ValueError(f"{path}:{line}: more than {MOST_DEPTH} blocks within each other")
                    inside.append(words[0])
                elif words[0] == "include" and len(words) == 2:
                    yield from self._include(words[1], tuple(inside))
            words = []
        if words or len(inside) != len(blocks):
            raise ValueError(f"{path}:{line}: ends within a directive or a block")

    def _include(self, pattern: str, blocks: tuple[str, ...]) -> Iterator[Directive]:
        path = self._folder / pattern
        if not re.search(r"[*?\[]", pattern):
            yield from self.file(path, blocks)
            return
        root = self._seen(Path("/"))
        for each in sorted(islice(root.glob(str(path.relative_to("/"))), MOST_FILES + 1)):
            yield from self.file(Path("/") / each.relative_to(root), blocks)


def _end_of_block(text: str, at: int) -> int:
    """Behind the brace that closes a block of Lua, whose own braces come in pairs."""
    depth = 1
    for match in re.finditer("[{}]", text[at:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return at + match.end()
    return len(text)
