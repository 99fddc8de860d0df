"""A record's settings as lines: what a report lists, and what a comparison looks for differences in."""

from typing import Any

import msgspec


def flatten(record: Any, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """{"tls.insecure": "yes", "rate_per_s": "not set", ...} of a record; {} of None. Lists are one line."""
    if record is None:
        return {}
    lines: dict[str, str] = {}
    for key, value in msgspec.to_builtins(record).items():
        if key not in without:
            _add(lines, str(key), value)
    return lines


def _add(lines: dict[str, str], key: str, value: Any) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _add(lines, f"{key}.{name}", inner)
    else:
        lines[key] = _said(value)


def _said(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | dict) and not value:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(it if isinstance(it, str) else msgspec.json.encode(it).decode() for it in value)
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
