"""Fixtures that end with a test whatever the test started."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from running import Command, Listening, Namespace, Run, check

Start = Callable[..., Command]
Holds = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start("hold", ..., prefix=()) -> Command, ended with the test.

    A run without eBPF, unless bpf=True: compiling the probes takes longer than most of these tests.
    """
    commands: list[Command] = []

    def begin(
        *arguments: str, prefix: Sequence[str] = (), results: Path | None = None, bpf: bool = False
    ) -> Command:
        makes_runs = arguments[0] in ("compare", "hold", "limit", "load")
        if makes_runs and not bpf and arguments[0] != "compare" and "--no-bpf" not in arguments:
            arguments = (arguments[0], "--no-bpf", *arguments[1:])
        where = results or tmp_path / f"results-{len(commands)}"
        commands.append(Command(*arguments, prefix=prefix, results=where if makes_runs else None))
        return commands[-1]

    yield begin
    for command in commands:
        command.end()


@pytest.fixture
def hold(start: Start) -> Holds:
    """hold("--target", ..., code=4) -> Run: `connprobe hold --json`, to its end, checked."""

    def run(
        *arguments: str,
        code: int = 0,
        prefix: Sequence[str] = (),
        results: Path | None = None,
        bpf: bool = False,
    ) -> Run:
        command = start("hold", "--json", *arguments, prefix=prefix, results=results, bpf=bpf)
        return check(command.finish(), code)

    return run


@pytest.fixture
def serve(start: Start, free_port: Callable[[], int]) -> Callable[..., Listening]:
    """serve("--protocol", "tcp", ...) -> Listening, on a port that was free."""

    def begin(*arguments: str, address: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Listening:
        listen = f"[{address}]" if ":" in address else address
        given = ("--listen", f"{listen}:{free_port()}", "--processes", "1")
        return Listening(start("serve", *given, *arguments, prefix=prefix))

    return begin


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            return int(sock.getsockname()[1])

    return find


@pytest.fixture
def namespace() -> Iterator[Callable[[str], Namespace]]:
    made: list[Namespace] = []

    def make(script: str = ":") -> Namespace:
        made.append(Namespace(script))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.end()


@pytest.fixture
def nobody() -> Iterator[tuple[tuple[str, ...], Path]]:
    """(prefix, directory of its own): an ordinary user, with no capability and no other group."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user: sudo .venv/bin/pytest")
    drop: tuple[str, ...] = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    drop = (*drop, "--bounding-set=-all")
    again = "import connprobe, subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    trial = (sys.executable, "-c", again)
    if subprocess.run([*drop, *trial], check=False, capture_output=True).returncode != 0:
        # The interpreter lies under /root: one capability is left, to read what others may not.
        read = "dac_read_search"
        drop = (*drop[:-1], f"--bounding-set=-all,+{read}", f"--inh-caps=+{read}", f"--ambient-caps=+{read}")
        if subprocess.run([*drop, *trial], check=False, capture_output=True).returncode != 0:
            pytest.skip(f"other users cannot run {sys.executable}: use an interpreter outside /root")
    with tempfile.TemporaryDirectory(prefix="connprobe-nobody-") as home:
        os.chown(home, 65534, 65534)
        yield ("env", f"XDG_RUNTIME_DIR={home}", *drop), Path(home)
