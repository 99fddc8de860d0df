"""Real processes to look at: Python programs that say a line of JSON and are ended by their pid."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).parents[2] / "cli"


class Program:
    """A running program: `said` is its first line; `ask` sends a line and returns the answer."""

    def __init__(self, code: str, *arguments: str, within: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*within, sys.executable, "-W", "error", "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )
        self.pid = self.process.pid
        self.said: Any = None

    def listen(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program ended without a word"
        return json.loads(line)

    def ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.listen()

    def end(self) -> None:
        """Ends the program and its children (they share the session that was made for it)."""
        if self.process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """start(code, *arguments, within=()) -> Program."""
    running: list[Program] = []

    def starter(code: str, *arguments: str, within: tuple[str, ...] = ()) -> Program:
        program = Program(code, *arguments, within=within)
        running.append(program)
        program.said = program.listen()
        return program

    yield starter
    for program in running:
        program.end()


@pytest.fixture
def as_root() -> None:
    """For tests that make namespaces or become another user."""
    if os.geteuid() != 0:
        pytest.skip("makes namespaces or becomes another user: run the tests as root")
