"""The supervisor's side of a group of forked processes: start, command, count, lose, stop.

A member of the group is one task's: a process, or, where there are to be fewer processes than tasks, a thread
with descriptors of its own.
"""

import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from connprobe.errors import RunFailed
from connprobe.fleet.shared import FAILED, SharedTable

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_START = "import sys; sys.path += sys.argv[1:]; import connprobe.fleet.zygote"
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
START_S = 60.0
UNKNOWN = "ended, nobody knows how"
KILLED_S = 30.0  # to wait for processes that were killed: the kernel closes their connections first


class Fleet:
    """One member per task, each running `module.run(task, row, control, shared)`.

    shared: what `module.prepare(first task)` made before the forks, for all to read.

    tasks: anything marshal takes (tuples of numbers, strings, bytes, None). processes: that they are dealt
    to; 0: one for each. name: the processes' name in ps.
    log: where their tracebacks go; None: nowhere. path: the directory to import `module` from.
    fds: descriptors that all of them get.
    Raises RunFailed when the processes cannot be started.
    """

    def __init__(
        self,
        module: str,
        name: str,
        tasks: Sequence[tuple[Any, ...]],
        columns: int,
        log: IO[bytes] | None = None,
        path: str = _PACKAGE_ROOT,
        processes: int = 0,
        fds: Sequence[int] = (),
    ) -> None:
        self.lost: dict[int, str] = {}  # index -> how it ended, for those nobody told to end
        self._ended: dict[int, int] = {}  # by pid
        self._failed: set[int] = set()  # members that said so
        self._waited: set[int] = set()  # pids whose end was waited for
        self._processes = processes if 0 < processes < len(tasks) else len(tasks)
        self._stopping = False
        self._poll = select.poll()
        with ExitStack() as undo, ExitStack() as theirs:
            try:
                self.pids = self._start(module, name, tasks, columns, log, path, fds, undo, theirs)
            except OSError as error:
                threads = f"{len(tasks):,} threads in " if self._processes < len(tasks) else ""
                raise RunFailed(
                    f"could not start {threads}{self._processes:,} processes: {error.strerror or error}",
                    fix="`ulimit -u` and `ulimit -n` must have room for them; workers.log may say more",
                ) from error
            undo.pop_all()

    def _start(
        self,
        module: str,
        name: str,
        tasks: Sequence[tuple[Any, ...]],
        columns: int,
        log: IO[bytes] | None,
        path: str,
        fds: Sequence[int],
        undo: ExitStack,
        theirs: ExitStack,
    ) -> list[int]:
        """The processes' pids. `undo`: for a start that fails. `theirs`: their ends, closed in any case."""
        self.table = SharedTable(len(tasks), columns)
        theirs.callback(os.close, self.table.fd)
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.enter_context(self._control)
        theirs.enter_context(control)
        self._sockets: dict[int, socket.socket] = {}
        children = []
        for index in range(len(tasks)):
            mine, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._sockets[index] = undo.enter_context(mine)
            children.append(theirs.enter_context(child).fileno())
            mine.setblocking(False)
            self._poll.register(mine, select.POLLIN)
        self._index_of = {mine.fileno(): index for index, mine in self._sockets.items()}
        orders = marshal.dumps(
            {
                "module": module,
                "name": name,
                "control": control.fileno(),
                "table": self.table.fd,
                "columns": columns,
                "children": children,
                "tasks": [tuple(task) for task in tasks],
                "processes": self._processes,
            }
        )
        # Until the zygote ignores them, the terminal's signals wait: Ctrl-C must not reach it half started.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
        try:
            # -I -S: neither the current directory nor site-packages' start-up files belong in root processes.
            self._zygote = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, path, _PACKAGE_ROOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if log is None else log,
                pass_fds=[control.fileno(), self.table.fd, *children, *fds],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        undo.callback(self._end_zygote)
        theirs.close()
        assert self._zygote.stdin is not None
        with suppress(BrokenPipeError), self._zygote.stdin as orders_pipe:  # how it ended is read next
            orders_pipe.write(orders)
        self._control.settimeout(START_S)
        answer = self._control.recv(1 << 18)
        if not answer:
            raise OSError("the process that forks them ended at once")
        kind, what = marshal.loads(answer)
        if kind == "refused":
            raise OSError(*what)
        self._control.setblocking(False)
        pids: list[int] = what
        self._processes = len(pids)  # one for each where threads are forbidden
        return pids

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(timeout_s=5)

    @property
    def zygote_pid(self) -> int:
        return self._zygote.pid

    @property
    def alive(self) -> list[int]:
        """Indices of the members that still run."""
        return sorted(self._sockets)

    @property
    def living_pids(self) -> list[int]:
        """Of the processes with members that still run."""
        return sorted({self.pid_of(index) for index in self._sockets})

    def pid_of(self, index: int) -> int:
        """Of the process that a member is, or is a thread of."""
        return self.pids[index % self._processes]

    def send(self, *message: Any) -> None:
        """The same message to every living member; one that just died is noticed at the next poll."""
        data = marshal.dumps(message)
        for mine in self._sockets.values():
            try:
                mine.send(data)
            except OSError:
                continue

    def tell(self, index: int, *message: Any) -> None:
        """To one of them, if it lives."""
        if index in self._sockets:
            with suppress(OSError):
                self._sockets[index].send(marshal.dumps(message))

    def poll(self, timeout_s: float) -> list[tuple[int, tuple[Any, ...]]]:
        """Messages that arrived, as (index, message). Waits up to timeout_s for the first."""
        messages = []
        for fd, _ in self._poll.poll(max(0, int(timeout_s * 1000))) if self._sockets else _sleep(timeout_s):
            index = self._index_of[fd]
            while True:
                try:
                    data = self._sockets[index].recv(1 << 18)
                except BlockingIOError:
                    break
                except ConnectionResetError:  # a message of ours was not read: theirs come after this
                    continue
                except OSError:
                    data = b""
                if not data:
                    self._gone(index)
                    break
                message = marshal.loads(data)
                if message[0] == FAILED:
                    self._failed.add(index)
                else:
                    messages.append((index, message))
        self._explain()
        return messages

    def _gone(self, index: int) -> None:
        mine = self._sockets.pop(index)
        self._poll.unregister(mine)
        del self._index_of[mine.fileno()]
        mine.close()
        if not self._stopping:
            self.lost[index] = self._how_it_ended(index)

    def _explain(self) -> None:
        """How those ended of whom that was not known: a process ends with the slowest of its threads."""
        unknown = [index for index, how in self.lost.items() if how == UNKNOWN]
        if unknown and not self._stopping and self._read_endings(0):
            self.lost |= {index: self._how_it_ended(index) for index in unknown}

    def _how_it_ended(self, index: int) -> str:
        pid = self.pid_of(index)
        if index in self._failed and pid in self.living_pids:
            return "ended by an error (workers.log)"
        deadline = time.monotonic() + (0 if pid in self._waited else 1)
        self._waited.add(pid)
        while pid not in self._ended and time.monotonic() < deadline:
            if not self._read_endings(100):
                break
        code = self._ended.get(pid)
        if code is None:
            return UNKNOWN
        if code < 0:
            return f"killed by {signal_name(-code)}"
        return f"ended with status {code}"

    def _read_endings(self, wait_ms: int) -> bool:
        """What the zygote reaped. False: the zygote itself is gone."""
        control = select.poll()  # select() takes no descriptor above 1023
        control.register(self._control, select.POLLIN)
        if not control.poll(wait_ms):
            return True
        while True:
            try:
                data = self._control.recv(1 << 16)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            _, pid, code = marshal.loads(data)
            self._ended[pid] = code

    def kill(self, index: int) -> None:
        """SIGKILL for the process of one that does not answer any more; found lost at a later poll."""
        with suppress(ProcessLookupError):
            os.kill(self.pid_of(index), signal.SIGKILL)

    def stop(
        self, timeout_s: float, hurry: Callable[[], bool] = lambda: False, hurried_s: float = 0.0
    ) -> list[tuple[int, tuple[Any, ...]]]:
        """Tells all to end, collects their last messages, kills what has not ended in time. Idempotent.

        From the moment `hurry` says so, no more than hurried_s are left.
        """
        self._stopping = True
        self.send("quit")
        deadline = time.monotonic() + timeout_s
        messages = []
        while self._sockets and time.monotonic() < deadline:
            messages += self.poll(min(0.2, max(0.0, deadline - time.monotonic())))
            if hurried_s and hurry():
                deadline, hurried_s = min(deadline, time.monotonic() + hurried_s), 0.0
        for index in list(self._sockets):
            self.kill(index)
        deadline = time.monotonic() + KILLED_S
        while self._sockets and time.monotonic() < deadline:
            messages += self.poll(0.2)
        for mine in self._sockets.values():
            mine.close()
        self._sockets.clear()
        self._end_zygote()
        return messages

    def _end_zygote(self) -> None:
        """It ends when it has reaped all its children; nobody reads of that any more."""
        self._control.close()
        try:
            self._zygote.wait(5)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            self._zygote.wait()


def signal_name(number: int) -> str:
    """SIGKILL", as kill -l has it."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal: only the first and the last have names
        return f"signal {number}"


def _sleep(seconds: float) -> list[tuple[int, int]]:
    time.sleep(max(0.0, seconds))
    return []
