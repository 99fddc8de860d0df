"""Runs a command, and writes down how long it took and the CPU of all its processes.

    python benchmarks/spent.py FILE COMMAND...    FILE: {"wall_s": ..., "cpu_s": ...}

Processes that outlive the one that started them, as the workers of a Node cluster do, are waited for, and
counted.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: orphans become children of this process


def main(file: str, *command: str) -> int:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    process = subprocess.Popen(command)
    try:
        code = process.wait()
        wall_s = time.monotonic() - began
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
    finally:
        if process.returncode is None:
            process.terminate()
            process.wait()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    Path(file).write_text(json.dumps({"wall_s": wall_s, "cpu_s": spent.ru_utime + spent.ru_stime}))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
