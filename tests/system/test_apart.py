"""A call in a process of its own, as a signal comes."""

import subprocess
import sys

INTERRUPTED_AS_IT_BEGINS = """
import os, signal
from connprobe.errors import RunFailed
from connprobe.system.apart import apart

os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    apart(print, "not to be seen")
except RunFailed as failed:
    print(failed)
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_as_it_begins_prints_nothing_of_its_own() -> None:
    """And reaches this process as before."""
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AS_IT_BEGINS], capture_output=True, text=True, timeout=30
    )
    assert ran.stdout == "the process that was to run print ended without an answer\n"
    assert "ignored" not in ran.stderr
    assert ran.stderr.endswith("KeyboardInterrupt\n")
