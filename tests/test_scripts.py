"""What a newcomer runs first: the scripts parse, say what is missing, and touch nothing then."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
SCRIPTS = ("setup", "demo", "test", "check")
# What scripts/setup itself is written with; no python3, no apt-get, no gcc.
BASICS = ("sh", "basename", "cat", "cksum", "dirname", "id", "readlink", "rm")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout without .venv beside a PATH directory `bin` with the basics alone."""
    (tmp_path / "bin").mkdir()
    for name in BASICS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    shutil.copytree(CHECKOUT / "scripts", tmp_path / "checkout" / "scripts")
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path / "checkout")
    return tmp_path


def setup(bare: Path, *arguments: str, script: str = "checkout/scripts/setup") -> tuple[int, str]:
    """Exit code and standard error of scripts/setup, run from another directory."""
    ran = subprocess.run(
        [bare / script, *arguments],
        cwd=bare,
        env={"PATH": str(bare / "bin")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.stdout == ""
    assert not (bare / "checkout" / ".venv").exists()
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_executable_and_plain_sh(name: str) -> None:
    script = CHECKOUT / "scripts" / name
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", script], check=True)


def test_without_apt_everything_missing_is_named_at_once(bare: Path) -> None:
    code, said = setup(bare, "dev")
    assert code == 1
    missing = "python3 python3-venv gcc libc6-dev iproute2 util-linux procps"
    assert f"missing: {missing} (Debian's names)" in said


def test_it_is_found_through_a_symlink(bare: Path) -> None:
    (bare / "link").symlink_to("checkout/scripts/setup")
    code, said = setup(bare, script="link")
    assert (code, "missing: python3 python3-venv" in said) == (1, True)


def test_a_python_too_old_is_named_with_its_version(bare: Path) -> None:
    old = bare / "bin" / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    code, said = setup(bare)
    assert code == 1
    assert "needs Python 3.11 or later, and python3 is Python 3.9.2" in said


def test_another_argument_is_a_usage_error(bare: Path) -> None:
    code, said = setup(bare, "production")
    assert (code, said) == (2, "setup: usage: scripts/setup [dev]\n")
