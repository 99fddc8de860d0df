"""The man page: clean in groff, and naming every option and exit code that exists."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from connprobe.app import app
from connprobe.causes import CAUSES
from connprobe.version import __version__

PAGE = Path(__file__).parent.parent / "docs" / "connprobe.1"


@pytest.fixture
def rendered() -> str:
    """The page as `man` shows it, in plain text."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff: apt-get install groff-base")
    # -P-c -P-b -P-u: no escape sequences and no overstriking.
    options = ["-ww", "-man", "-Tutf8", "-P-c", "-P-b", "-P-u", "-rHY=0"]
    done = subprocess.run([groff, *options, str(PAGE)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.replace("\N{MINUS SIGN}", "-")


def test_groff_has_no_warnings_and_the_version_is_current(rendered: str) -> None:
    assert f"connprobe {__version__}" in rendered


def commands_of(group: object) -> dict[str, Any]:
    assert isinstance(group, TyperGroup)
    return dict(group.commands)


def test_every_command_of_sysctl_has_its_section() -> None:
    group = commands_of(typer.main.get_command(app))["sysctl"]
    assert [f"sysctl {name}" for name in commands_of(group)] == SYSCTL


def test_every_cause_is_listed(rendered: str) -> None:
    words = set(rendered.replace(",", " ").replace(".", " ").split())
    assert set(CAUSES) <= words


def test_every_exit_code_has_its_line(rendered: str) -> None:
    section = rendered[rendered.index("EXIT STATUS") : rendered.index("HOW EACH FIGURE")]
    codes = {line.split()[0] for line in section.splitlines()[1:] if line.strip()}
    assert {"0", "1", "2", "3", "4", "130"} <= codes


SYSCTL = [f"sysctl {name}" for name in ("list", "show", "check", "apply", "revert", "status", "plan")]


@pytest.mark.parametrize(
    "command",
    [
        "hold",
        "limit",
        "load",
        "pipeline",
        "compare",
        "serve",
        "watch",
        "report",
        "doctor",
        "restore",
        *SYSCTL,
    ],
)
def test_the_options_are_those_of_the_command_line(command: str) -> None:
    source = PAGE.read_text().replace("\\-", "-")
    (_, _, section) = source.partition(f".SS connprobe {command}\n")
    section = re.split(r"^\.S[SH] ", section, maxsplit=1, flags=re.MULTILINE)[0]
    found: Any = typer.main.get_command(app)
    for name in command.split():
        found = commands_of(found)[name]
    options = {name for parameter in found.params for name in parameter.opts if name.startswith("--")}
    assert set(re.findall(r"--[a-z][a-z-]+", section)) - {"--help"} == options
