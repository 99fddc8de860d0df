"""Runs the compiler in a process of its own, and takes what it has compiled."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from connprobe.kernel.programs import Programs, from_parts

SYSTEM_PYTHON = "/usr/bin/python3"
INSTALL = "apt-get install python3-bpfcc (Debian, Ubuntu), dnf install python3-bcc (Fedora)"
_WHY = {
    "missing": "it has none",
    "wrong": "its bcc is PyPI's package of that name, which is about lattices and not eBPF",
}
_COMPILER = Path(__file__).with_name("compiler.py")
_MESSAGE = 1 << 16
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Text(NamedTuple):
    """C to be compiled, and which programs of it are wanted."""

    name: str
    text: str
    programs: tuple[str, ...]


class Compiled:
    """`answers` by name: programs, or why it does not compile. `reason` and `fix` stand for all without.

    apart: why texts could not be compiled together, and were each by itself, which takes longer.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Programs | str] = {}
        self.apart: list[str] = []
        self.bcc: str | None = None
        self.reason = ""
        self.fix: str | None = None


def default_pythons() -> list[str]:
    """Interpreters that may have bcc: the running one if it has something so named, the distribution's."""
    running = [sys.executable] if importlib.util.find_spec("bcc") else []
    return list(dict.fromkeys([*running, SYSTEM_PYTHON]))


def compile_texts(
    texts: Sequence[Text], pythons: Sequence[str], timeout_s: int, workers: int | None = None
) -> Compiled:
    """Compile on the first interpreter that has bcc, in so many processes: one for each CPU unless given."""
    compiled = Compiled()
    # The longest first, so that the compiler's processes end at about the same time.
    ordered = sorted(texts, key=lambda each: len(each.text), reverse=True)
    job = {
        "texts": [each._asdict() for each in ordered],
        "workers": workers or len(os.sched_getaffinity(0)),
        "timeout_s": timeout_s,
    }
    refused: dict[str, str] = {}
    for python in pythons:
        why = _run(python, job, compiled, time.monotonic() + timeout_s)
        if why is None:
            return compiled
        refused[python] = why
    compiled.reason = "no Python with bcc: " + "; ".join(
        f"{python}: {_WHY.get(why, why)}" for python, why in refused.items()
    )
    wrong = [f"{python} -m pip uninstall bcc; " for python, why in refused.items() if why == "wrong"]
    compiled.fix = "".join(wrong) + INSTALL
    return compiled


def _run(python: str, job: dict[str, Any], compiled: Compiled, deadline: float) -> str | None:
    """None: this interpreter has bcc, and has had its time. Else why it cannot be used."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, tempfile.TemporaryDirectory(prefix="connprobe-") as work, tempfile.TemporaryFile() as text:
        text.write(json.dumps(job).encode())
        text.seek(0)
        with theirs:
            try:
                process = subprocess.Popen(
                    [python, "-I", "-B", str(_COMPILER), str(theirs.fileno()), work],
                    stdin=text,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                return str(error.strerror)
        try:
            refused = _listen(ours, compiled, Path(work), deadline)
        finally:
            said = _end(process)
        if refused is None and compiled.bcc is None:
            refused = said or "ended without a word"
        elif said:
            compiled.reason = f"{compiled.reason}: {said}"
        return refused


def _listen(channel: socket.socket, compiled: Compiled, work: Path, deadline: float) -> str | None:
    """Take messages until the compiler and its children have ended. None, or why there is no bcc here."""
    while True:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = channel.recv(_MESSAGE)
        except TimeoutError:
            compiled.reason = "it took too long, and was ended"
            return None if compiled.bcc else compiled.reason
        if not data:
            compiled.reason = compiled.reason or "the compiler ended without an answer"
            return None
        message = json.loads(data)
        if "file" in message:
            parts = json.loads((work / message["file"]).read_text())
            compiled.answers[message["name"]] = from_parts(parts)
        elif "apart" in message:
            compiled.apart.append(message["apart"])
        elif "name" in message:
            compiled.answers[message["name"]] = message["refused"]
        elif message["refused"]:
            return str(message["refused"])
        else:
            compiled.bcc = message["bcc"]


def _end(process: subprocess.Popen[bytes]) -> str:
    """End the compiler and its children, which share its session, and reap it: the last line it said."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    lines = said.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
