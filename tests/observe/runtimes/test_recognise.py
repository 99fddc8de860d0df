"""Real programs on each runtime, and what `attach` says of those whose heap has no limit."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from connprobe.observe.runtimes import attach
from connprobe.observe.runtimes.recognise import (
    _HEADER,
    _SECTION,
    environment_variable,
    is_go,
    is_helper,
    recognise,
)
from started import KEEPING, Started

GO = """
package main

import (
	"fmt"
	"time"
)

func main() {
	fmt.Println(1)
	time.Sleep(time.Hour)
}
"""


def reason(pid: int) -> str:
    runtime, why = attach([pid], None, inspect=True)
    assert runtime is None
    assert why is not None
    return why


def test_cpython() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = recognise(os.getpid())
    assert found is not None
    assert (found.kind, found.version) == ("cpython", version)
    assert reason(os.getpid()).startswith(f"CPython {version} has no heap limit of its own")


@pytest.mark.parametrize("stripped", [False, True])
def test_go(run: Callable[..., Started], tmp_path: Path, stripped: bool) -> None:
    if shutil.which("go") is None:
        pytest.skip("there is no Go here: apt-get install golang-go")
    source = tmp_path / "server.go"
    source.write_text(GO)
    cache = {"GOCACHE": str(tmp_path / "cache"), "GOPATH": str(tmp_path / "go"), "GOFLAGS": "-mod=mod"}
    flags = ["-ldflags", "-s -w"] if stripped else []
    subprocess.run(
        ["go", "build", *flags, "-o", tmp_path / "server", source],
        env={**os.environ, **cache},
        cwd=tmp_path,
        check=True,
        timeout=90,
    )
    server = run(tmp_path / "server", environment={"GOMEMLIMIT": "64MiB"})
    assert reason(server.pid).startswith("Go has no heap limit of its own: memory ends at its cgroup's")
    assert "GOMEMLIMIT=64MiB is a soft one" in reason(server.pid)
    without = run(tmp_path / "server", environment={"OTHER": "GOMEMLIMIT=64MiB"})
    assert "GOMEMLIMIT" not in reason(without.pid)


def test_node(node: Callable[..., Started]) -> None:
    server = node(KEEPING, environment={"SOME": "thing=1"})
    found = recognise(server.pid)
    assert found is not None
    assert found.kind == "node"
    assert environment_variable(server.pid, "SOME") == "thing=1"
    assert environment_variable(server.pid, "SOM") is None


def test_npm_is_no_server(run: Callable[..., Started], tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm here: apt-get install npm")
    (tmp_path / "server.js").write_text(KEEPING)
    (tmp_path / "package.json").write_text('{"scripts": {"start": "node server.js"}}')
    npm = run("npm", "--prefix", tmp_path, "--silent", "--no-update-notifier", "start")
    assert is_helper(npm.pid)
    assert not is_helper(npm.said)
    runtime, why = attach([npm.pid], None, inspect=True)
    assert runtime is None
    assert why is not None
    assert "no runtime" in why


def test_other_programs() -> None:
    with subprocess.Popen(["sleep", "100"]) as other:
        try:
            assert recognise(other.pid) is None
            assert "no runtime with a heap of its own" in reason(other.pid)
        finally:
            other.kill()


def _elf(sections_at: int = _HEADER.size, names_at: int = 0) -> bytes:
    """One section, of names; offsets that no file has are as good as any."""
    header = _HEADER.pack(b"\x7fELF\x02".ljust(16, b"\0"), 2, 62, 1, 0, 0, sections_at, 0, 64, 0, 0, 64, 1, 0)
    return header + _SECTION.pack(0, 3, 0, 0, names_at, 100, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF\x02",
        b"\x7fELF\x02" + b"\xff" * 500,
        b"#!/bin/sh\n",
        b"\x7fELF\x01" + b"\0" * 500,
        _elf(sections_at=(1 << 64) - 1),
        _elf(sections_at=1 << 63),
        _elf(names_at=(1 << 64) - 1),
        _elf(names_at=(1 << 63) - 1),
    ],
)
def test_odd_files_are_no_go(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert not is_go(file)
