"""Calls made in a child process, so that what they import does not stay in a command that runs for hours."""

import os
import pickle
import resource
import signal
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from connprobe.errors import ConnprobeError, RunFailed

P = ParamSpec("P")
R = TypeVar("R")


def apart(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """`function`'s result (which has to pickle), or the ConnprobeError it raises. Not beside threads.

    RunFailed: this user, or its cgroup, may have no further process.
    """
    reading, writing = os.pipe()
    # Ctrl-C waits: what Python does in a new process before it gives it to us would print a traceback.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    pid = -1
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        some = "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,}"
        raise RunFailed(
            f"no process can be started: {error.strerror} (processes of this user, ulimit -u: {some})",
            fix="ulimit -u 1000, or a larger pids.max of the cgroup that /proc/self/cgroup names",
        ) from error
    finally:
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if pid == 0:
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            try:
                answer: tuple[bool, object] = (True, function(*args, **kwargs))
            except ConnprobeError as error:
                answer = (False, error)
            with open(writing, "wb") as pipe:  # noqa: PTH123 a descriptor
                pickle.dump(answer, pipe)
            status = 0
        finally:
            os._exit(status)  # a traceback of ours would be printed twice: the parent says what is wrong
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123
        data = pipe.read()
    os.waitpid(pid, 0)
    if not data:
        raise RunFailed(f"the process that was to run {function.__name__} ended without an answer")
    good, value = pickle.loads(data)  # noqa: S301 from our own child
    if not good:
        raise value
    result: R = value
    return result
