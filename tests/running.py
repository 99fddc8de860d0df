"""The command line as its users run it: a process of its own, with everything that hangs from it."""

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from connprobe.engine.ring import Ring
from connprobe.model import HoldPlan, RunRecord, Sample

PATIENCE_S = 60.0
CHECKOUT = Path(__file__).parents[1]


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Whether `condition` came true in time. For what nothing can be waited on: other processes, files."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@dataclass
class Run:
    """A `connprobe` that is over."""

    returncode: int
    stdout: str
    stderr: str
    directory: Path | None  # of the run; None: none was made

    @property
    def record(self) -> RunRecord:
        assert self.directory is not None, self.stderr
        return msgspec.json.decode((self.directory / "run.json").read_bytes(), type=RunRecord)

    @property
    def samples(self) -> list[Sample]:
        assert self.directory is not None
        lines = (self.directory / "samples.jsonl").read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Sample) for line in lines]

    def says(self, text: str) -> bool:
        """Whether `text` is on stdout or stderr, wherever lines were broken."""
        return "".join(text.split()) in "".join((self.stdout + self.stderr).split())


class Command:
    """A running connprobe, in a session of its own as from a terminal. `prefix`: setpriv, nsenter ..."""

    def __init__(self, *arguments: str, results: Path | None = None, prefix: Sequence[str] = ()) -> None:
        self.name, self.results = arguments[0], results
        self.mark = f"CONNPROBE_TEST={secrets.token_hex(8)}"
        name, _, value = self.mark.partition("=")
        where = () if results is None else ("--results", str(results))
        arguments = (arguments[0], *where, *arguments[1:])  # what follows `--` is a server's
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "connprobe", *arguments],
            env={**os.environ, name: value, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        self.stdout = self.stderr = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def processes(self) -> dict[int, str]:
        """pid -> comm of the command and all it started, also of those that lost their parent."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except OSError:
                continue
        return found

    def named(self, name: str) -> int:
        """The pid of the process of that name, once it is there."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [pid for pid, comm in self.processes().items() if comm == name]
            return bool(found)

        assert eventually(look), self.processes()
        return found[0]

    @property
    def directory(self) -> Path | None:
        runs = sorted(self.results.glob(f"*-{self.name}-*")) if self.results is not None else []
        return runs[-1] if runs else None

    def sampled(self, phase: str, has: str = "") -> None:
        """Returns once a sample of that phase is on disk, with `has` in its line."""

        def look() -> bool:
            samples = (
                [] if self.results is None else list(self.results.glob(f"*-{self.name}-*/samples.jsonl"))
            )
            lines = (line for path in samples for line in path.read_text().splitlines())
            return any(f'"phase":"{phase}"' in line and has in line for line in lines)

        assert eventually(look), self.finish(kill=True)

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to every process of the foreground group."""
        os.killpg(self.pid, signal.SIGINT)

    def finish(self, timeout_s: float = PATIENCE_S, *, kill: bool = False) -> Run:
        """Waits for its end, and for that of all it started."""
        if kill:
            self.process.kill()
        try:
            self.stdout, self.stderr = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.stdout, self.stderr = self.process.communicate()
            raise
        assert eventually(lambda: not self.processes()), self.processes()
        return Run(self.process.returncode, self.stdout, self.stderr, self.directory)

    def end(self) -> None:
        """Whatever a failed test left."""
        for pid in {self.pid} & self.processes().keys() or self.processes().keys():
            os.kill(pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_S)


def check(run: Run, code: int) -> Run:
    """What every run owes: its exit code, no traceback, and counts that add up."""
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert "internal error" not in run.stderr
    if run.directory is None or not (run.directory / "run.json").exists():
        return run
    assert (run.directory / "workers.log").read_text() == ""
    record = run.record
    assert record.failed == sum(record.failures.values())
    assert record.dropped == sum(record.drops.values())
    for totals, details in (
        (record.failures, record.failure_details),
        (record.drops, record.drop_details),
    ):
        for cause, counted in details.items():
            assert sum(counted.values()) == totals[cause], (cause, counted)
    if not record.request.reconnect:
        parts = [record.held, record.failed, record.dropped, record.not_attempted]
        if record.load is not None:
            parts += [record.load.visited, record.load.wrong]
        assert record.requested == sum(parts), parts
    if run.stdout.startswith("{"):
        assert msgspec.json.decode(run.stdout, type=RunRecord) == record
    return run


class Listening:
    """A `connprobe serve` that listens."""

    def __init__(self, command: Command) -> None:
        self.command = command
        assert command.process.stderr is not None
        self.said = command.process.stderr.readline()
        assert self.said.startswith("listening on "), self.said + command.process.stderr.read()
        self.target = self.said.split()[-1]
        self.port = int(self.target.rpartition(":")[2])

    @property
    def address(self) -> tuple[str, int]:
        return self.target.rpartition(":")[0].strip("[]"), self.port

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Run:
        self.command.process.send_signal(number)
        run = self.command.finish()
        assert "Traceback" not in run.stderr
        return run


class Namespace:
    """Network and mount namespaces of their own, with lo up and an empty /run (so an own undo journal)."""

    def __init__(self, script: str) -> None:
        prepare = f"set -e; mount -t tmpfs none /run; ip link set lo up; {script}; echo ready; exec cat"
        self.process = subprocess.Popen(
            ["unshare", "-n", "-m", "sh", "-c", prepare],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.prefix = ("nsenter", "-t", str(self.process.pid), "-n", "-m")
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            pytest.skip(f"no namespaces here: {self.end()}: run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN")

    def run(self, *command: str) -> str:
        ran = subprocess.run([*self.prefix, *command], check=True, capture_output=True, text=True)
        return ran.stdout

    def end(self) -> str:
        return self.process.communicate(timeout=PATIENCE_S)[1].strip()


def read_plan(run: Run) -> HoldPlan:
    assert run.directory is not None
    return msgspec.json.decode((run.directory / "plan.json").read_bytes(), type=HoldPlan)


def bind_by_io_uring() -> bool:
    """Of Linux 6.11, and where nothing forbids it."""
    with select.epoll() as epoll:
        try:
            Ring(socket.AF_INET, b"", 1, epoll.fileno(), binds=False).close()
        except OSError:
            return False
    return True
