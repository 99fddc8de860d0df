"""Where in a TOML file a value stands: tomllib tells no positions. A scan of headers and keys, no parser."""

import re
from collections.abc import Sequence

_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\" -]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*(\"[^\"]*\"|[A-Za-z0-9_-]+)(?:\s*\.\s*(\"[^\"]*\"|[A-Za-z0-9_.-]+))?\s*=")


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The line (from 1) of `("contestant", 2, "tls")`: of the key, or the nearest that encloses it.

    None: nothing of it is there. Keys in inline tables and items of arrays are at the line of their key.
    """
    tables, keys = _scan(text)
    for length in range(len(path), 0, -1):
        found = keys.get(tuple(path[:length])) or tables.get(tuple(path[:length]))
        if found is not None:
            return found
    return None


def _scan(text: str) -> tuple[dict[tuple[str | int, ...], int], dict[tuple[str | int, ...], int]]:
    """Lines of tables and of keys, each by its path."""
    tables: dict[tuple[str | int, ...], int] = {}
    keys: dict[tuple[str | int, ...], int] = {}
    counted: dict[tuple[str | int, ...], int] = {}
    here: tuple[str | int, ...] = ()
    multiline: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if multiline is not None:
            if multiline in line:
                multiline = None
            continue
        if (header := _HEADER.match(line)) is not None:
            here = _resolve(header[2], counted)
            if header[1] == "[[":
                index = counted.get(here, -1) + 1
                counted[here] = index
                here = (*here, index)
            tables.setdefault(here, number)
        elif (key := _KEY.match(line)) is not None:
            path = (*here, _plain(key[1]))
            keys.setdefault(path, number)
            if key[2] is not None:
                keys.setdefault((*path, *map(_plain, key[2].split("."))), number)
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                multiline = quotes
    return tables, keys


def _resolve(dotted: str, counted: dict[tuple[str | int, ...], int]) -> tuple[str | int, ...]:
    """`contestant.files` belongs to the last contestant so far."""
    path: tuple[str | int, ...] = ()
    parts = dotted.split(".")
    for part in parts[:-1]:
        path = (*path, _plain(part))
        if path in counted:
            path = (*path, counted[path])
    return (*path, _plain(parts[-1]))


def _plain(key: str) -> str:
    return key.strip().strip('"')
