"""Finding and reading profiles: the shipped ones, the user's own, any file, or standard input."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from connprobe.data import data_dir
from connprobe.errors import RunFailed, UsageError
from connprobe.plan.sysctl.file import LARGEST_BYTES, Profile, parse_profile
from connprobe.store import files


class Listed(NamedTuple):
    """A profile that goes by its name. `problem`: why it cannot be used."""

    name: str
    path: Path
    about: str
    problem: str = ""


def profile_directories() -> tuple[Path, ...]:
    """The user's own first: a file there stands for a shipped one of the same name."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    config = Path(configured) if configured.startswith("/") else Path("~/.config").expanduser()
    return (config / "connprobe" / "sysctl.d", data_dir("sysctl.d"))


def list_profiles() -> list[Listed]:
    """All that `load` finds by name, sorted."""
    found: dict[str, Listed] = {}
    for directory in profile_directories():
        try:
            paths = sorted(directory.glob("*.conf"))
        except OSError:  # not ours to look into
            continue
        for path in paths:
            if path.stem in found:
                continue
            try:
                found[path.stem] = Listed(path.stem, path, _read(path.stem, path).about)
            except RunFailed as failure:
                found[path.stem] = Listed(path.stem, path, "", failure.message)
    return [found[name] for name in sorted(found)]


def load(text: str) -> Profile:
    """A profile by its name, its path, or "-". UsageError: there is none; RunFailed: it cannot be read."""
    if text == "-":
        data = sys.stdin.buffer.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise RunFailed(f"standard input is longer than {LARGEST_BYTES:,} bytes: this is no profile")
        return parse_profile("stdin", "standard input", data)
    if "/" in text or text.endswith(".conf"):
        path = Path(text)
        if not path.exists():
            raise UsageError(f"there is no file {text}", fix="connprobe sysctl list shows the profiles")
        return _read(path.stem, path)
    for directory in profile_directories():
        path = directory / f"{text}.conf"
        if path.exists():
            return _read(text, path)
    names = ", ".join(each.name for each in list_profiles())
    raise UsageError(
        f"there is no profile {text!r}", fix=f"name one of: {names}; or a path, or - for standard input"
    )


def _read(name: str, path: Path) -> Profile:
    try:
        data = files.read_file(path, most=LARGEST_BYTES)
    except OSError as error:
        raise RunFailed(f"the profile {path} cannot be read: {error.strerror or error}") from error
    return parse_profile(name, str(path), data)
