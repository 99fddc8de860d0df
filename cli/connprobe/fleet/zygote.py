"""A small process that forks the others, so that none of them carries the command's heavy libraries.

Started by `fleet.Fleet` as a fresh interpreter; reads its orders from standard input, imports the one
module it is to run, freezes the heap so that forks share its pages, and forks the processes. Where these
are fewer than the tasks, each task is a thread with a table of descriptors of its own (unshare(CLONE_FILES)):
descriptors are limited by table, and what a process takes by itself is taken once.
Children end when their control socket does: nothing outlives a supervisor that was killed.
"""

import errno
import gc
import importlib
import marshal
import os
import signal
import socket
import sys
from _thread import LockType, stack_size, start_new_thread
from _thread import allocate_lock as lock
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from connprobe.fleet.shared import FAILED, SharedTable

CLONE_FILES = 0x400
M_ARENA_MAX = -8
BEGIN_S = 20  # for a thread that was started to run
STACK_BYTES = 1 << 20  # of a thread, which touches 30 kB of it; without overcommitment all counts


def main() -> None:
    orders = marshal.loads(sys.stdin.buffer.read())
    control = socket.socket(fileno=orders["control"])
    ends: list[int] = orders["children"]
    table = SharedTable(len(ends), orders["columns"], orders["table"])
    module = importlib.import_module(orders["module"])
    shared = module.prepare(orders["tasks"][0])
    terminal = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    for each in terminal:  # these are the supervisor's business
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, terminal)  # blocked since before we were started
    processes = orders["processes"]
    threaded = processes < len(ends) and _has_threads()
    if not threaded:
        processes = len(ends)
    gc.collect()
    gc.disable()
    gc.freeze()

    ready, begun = os.pipe() if threaded else (-1, -1)
    pids: list[int] = []
    for number in range(processes):
        members = range(number, len(ends), processes)
        try:
            pid = os.fork()
        except OSError as error:
            for forked in pids:
                os.kill(forked, signal.SIGKILL)
            _tell(control, "refused", (error.errno, error.strerror))
            break
        if pid == 0:
            # Every object used here is a page of this child's own: plain descriptors, no streams.
            os.close(control.fileno())
            for index, end in enumerate(ends):
                if index not in members:
                    os.close(end)
            _name_process(f"{orders['name']}-{number}")
            status = 1
            try:
                runs = [
                    partial(
                        _run, module, orders["tasks"][index], table.row(index), ends[index], shared, threaded
                    )
                    for index in members
                ]
                if threaded:
                    os.close(ready)
                    status = _in_threads(runs, [ends[index] for index in members], begun)
                else:
                    status = runs[0]()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                raise
            finally:
                sys.stderr.flush()
                os._exit(status)
        pids.append(pid)
    for end in ends:
        os.close(end)
    _name_process(f"{orders['name']}-z")
    if len(pids) == processes:
        if not threaded or _all_begin(ready, begun, processes):
            _tell(control, "forked", pids)
        else:
            for forked in pids:
                os.kill(forked, signal.SIGKILL)
            _tell(control, "refused", (errno.EAGAIN, "a thread could not be started"))
    for _ in pids:
        pid, wait_status = os.wait()
        _tell(control, "ended", pid, os.waitstatus_to_exitcode(wait_status))


def _run(module: Any, task: tuple[Any, ...], row: memoryview, end: int, shared: Any, threaded: bool) -> int:
    """One task, to its end. Returns the exit status."""
    control = socket.socket(fileno=end)
    try:
        module.run(task, row, control, shared)
    except Exception:  # noqa: BLE001 - whatever it is, the others of this process go on
        sys.excepthook(*sys.exc_info())
        if threaded:  # of a process its status tells
            _tell(control, FAILED)
        return 1
    return 0


def _has_threads() -> bool:
    """Prepares for threads before the forks: what that takes is shared then. False: it is forbidden.

    Containers commonly allow unshare(2) to CAP_SYS_ADMIN alone (seccomp). With one thread, and nobody to
    share with, this call changes nothing.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_FILES):
        return False
    # One malloc arena: one thread at a time is in Python, and each arena keeps pages of its own.
    if mallopt := getattr(libc, "mallopt", None):  # of glibc alone
        mallopt(M_ARENA_MAX, 1)
    stack_size(STACK_BYTES)
    return True


def _all_begin(ready: int, begun: int, processes: int) -> bool:
    """Whether the threads of all processes run."""
    os.close(begun)
    with open(ready, "rb", buffering=0) as pipe:
        come = 0
        while data := pipe.read(processes):
            come += len(data)
    return come == processes


def _in_threads(runs: Sequence[Callable[[], int]], ends: list[int], begun: int) -> int:
    """Each with descriptors of its own, of which its end of `ends` is one. Returns the worst status.

    begun: takes a byte once all run, and is closed.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    alone, running = lock(), [lock() for _ in runs]
    statuses = [1] * len(runs)

    def thread(number: int) -> None:
        try:
            if libc.unshare(CLONE_FILES):
                raise OSError(ctypes.get_errno(), "unshare(CLONE_FILES)")
            for other in ends:
                if other != ends[number]:
                    os.close(other)
            os.close(begun)
            alone.release()
            statuses[number] = runs[number]()
        except OSError:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        finally:
            running[number].release()

    for number in range(len(runs)):
        _wait_for(alone)  # until the one before has its copy of all descriptors
        running[number].acquire()
        start_new_thread(thread, (number,))
    _wait_for(alone)
    for end in ends:
        os.close(end)
    os.write(begun, b"\0")
    os.close(begun)
    for each in running:
        each.acquire()
    return max(statuses)


def _wait_for(begun: LockType) -> None:
    if not begun.acquire(timeout=BEGIN_S):
        raise RuntimeError("a thread did not begin")


def _tell(control: socket.socket, *message: Any) -> None:
    with suppress(OSError):  # the supervisor is gone, and with it the children's control sockets
        control.send(marshal.dumps(message))


def _name_process(name: str) -> None:
    """What ps and top show; the kernel keeps 15 bytes."""
    comm = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(comm, name[:15].encode())
    os.close(comm)


main()
