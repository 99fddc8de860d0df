"""Keeps a server that connprobe starts: says how it ended, and ends it with all that it forked off.

A process and a script of its own, so that no server outlives a connprobe that was killed: then its socket
closes, and that is an order too. It adopts what the server leaves behind, a daemon for example.
"""

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 5.0  # from SIGTERM to SIGKILL
POLL_MS = 100
MOST_LOG_BYTES = 64 << 20
TERMINAL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def main(control: socket.socket, nofile: tuple[int, int], directory: str, command: list[str]) -> None:
    control.set_inheritable(False)  # it is not for the server
    for number in TERMINAL:  # Ctrl-C is connprobe's business, which says here what becomes of the server
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    failed, fails = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(command, nofile, directory, fails)
    os.close(fails)
    with open(failed, "rb") as pipe:  # noqa: PTH123 a descriptor
        refusal = pipe.read()
    if refusal:
        os.waitpid(pid, 0)
        _tell(control, "refused", *json.loads(refusal))
        return
    _tell(control, "started", pid)
    orders = select.poll()
    orders.register(control, select.POLLIN)
    while not orders.poll(POLL_MS):
        _reap(control, pid)
        _cut_log()
    _end_all(control, pid)


def _become(command: list[str], nofile: tuple[int, int], directory: str, fails: int) -> None:
    """The server: in a session of its own, with the descriptor limits that the shell had. Never returns."""
    try:
        os.setsid()
        for number in (*TERMINAL, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.chdir(directory)
        resource.setrlimit(resource.RLIMIT_NOFILE, nofile)
        # It may be driven to its end on purpose: no core of many gigabytes for that.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(fails, json.dumps((error.errno, error.strerror)).encode())
    finally:
        os._exit(127)


def _reap(control: socket.socket, server: int) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid == server:
                _tell(control, "ended", os.waitstatus_to_exitcode(status))


def _cut_log() -> None:
    """A server that does nothing but print must not fill the disk: what it said last is kept."""
    with suppress(OSError):
        if os.fstat(sys.stdout.fileno()).st_size > MOST_LOG_BYTES:
            os.ftruncate(sys.stdout.fileno(), 0)


def _end_all(control: socket.socket, server: int) -> None:
    deadline, number = time.monotonic() + GRACE_S, signal.SIGTERM
    told: set[int] = set()
    while left := descendants(os.getpid()):
        if time.monotonic() >= deadline:
            number, told = signal.SIGKILL, set()
        for pid in left - told:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        told |= left
        if time.monotonic() >= deadline + GRACE_S:
            return  # somebody else's by now (setuid), or in uninterruptible sleep
        time.sleep(0.01)
        _reap(control, server)


def descendants(ancestor: int) -> set[int]:
    """All that a process forked, and what those forked, but for zombies (source: /proc/PID/stat)."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 no pathlib in a process that is to stay small
        if name.isdecimal():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                # Bytes: anybody's process may have any name.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in b"ZX":
                    parents[int(name)] = int(parent)
    found: set[int] = set()
    edge = {ancestor}
    while edge:
        edge = {pid for pid, parent in parents.items() if parent in edge} - found
        found |= edge
    return found


def _tell(control: socket.socket, *message: Any) -> None:
    with suppress(OSError):  # nobody listens any more: the end of file says so next
        control.send(json.dumps(message).encode())


if __name__ == "__main__":
    soft, hard = int(sys.argv[2]), int(sys.argv[3])
    main(socket.socket(fileno=int(sys.argv[1])), (soft, hard), sys.argv[4], sys.argv[5:])
