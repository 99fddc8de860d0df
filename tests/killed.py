"""Ending a process at one exact line of connprobe's own code, so that "killed anywhere" needs no clock."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import connprobe

_PACKAGE = str(Path(connprobe.__file__).parent)
NEVER = 1 << 62


def run_until_line(line: int, function: Callable[[], object]) -> int | None:
    """Run `function` in a fork that is ended by SIGKILL at its `line`-th line within connprobe.

    Returns how many lines it ran, or None when it was killed. What it raises is a failure of the test.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            count = 0

            def trace(frame: FrameType, event: str, argument: Any) -> Any:
                nonlocal count
                if not frame.f_code.co_filename.startswith(_PACKAGE):
                    return None
                if event == "line":
                    count += 1
                    if count == line:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            function()
            sys.settrace(None)
            os.write(writing, str(count).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert status == 0, "the function raised"
    return int(said)
