"""The supervisor's side of a group of forked processes: start, command, count, lose, stop."""

import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from connprobe.errors import RunFailed
from connprobe.fleet.shared import SharedTable

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_START = "import sys; sys.path.append(sys.argv[1]); import connprobe.fleet.zygote"


class Fleet:
    """One forked process per task, each running `module.run(task, row, control)`.

    tasks: anything marshal takes (tuples of numbers, strings, bytes, None). name: the processes' name in ps.
    Raises RunFailed when the processes cannot be started.
    """

    def __init__(
        self,
        module: str,
        name: str,
        tasks: Sequence[tuple[Any, ...]],
        columns: int,
        log: IO[bytes] | None = None,
    ) -> None:
        self.table = SharedTable(len(tasks), columns)
        self.lost: dict[int, str] = {}  # index -> how it ended, for those nobody told to end
        self._stopping = False
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in tasks]
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        children = [theirs_child for _, theirs_child in pairs]
        passed = [theirs.fileno(), self.table.fd, *(child.fileno() for child in children)]
        orders = {
            "module": module,
            "name": name,
            "control": theirs.fileno(),
            "table": self.table.fd,
            "columns": columns,
            "children": [child.fileno() for child in children],
            "tasks": [tuple(task) for task in tasks],
        }
        # -I -S: neither the current directory nor site-packages' start-up files belong in 50 root processes.
        self._zygote = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, _PACKAGE_ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=passed,
        )
        for sock in (theirs, *children):
            sock.close()
        self._sockets = {index: mine for index, (mine, _) in enumerate(pairs)}
        self._poll = select.poll()
        for mine in self._sockets.values():
            mine.setblocking(False)
            self._poll.register(mine, select.POLLIN)
        self._index_of = {mine.fileno(): index for index, mine in self._sockets.items()}
        assert self._zygote.stdin is not None
        try:
            with self._zygote.stdin as orders_pipe:
                orders_pipe.write(marshal.dumps(orders))
            self._control.settimeout(60)
            answer = self._control.recv(1 << 18)
            if not answer:
                raise OSError("it ended at once")
        except OSError as error:
            self._zygote.kill()
            self._zygote.wait()
            raise RunFailed(
                f"could not start {len(tasks)} processes: {error}",
                fix="see workers.log in the results directory; free memory or raise `ulimit -u`",
            ) from error
        _, self.pids = marshal.loads(answer)
        self._control.setblocking(False)
        self._ended: dict[int, int] = {}

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
        """Indices of the processes that still run."""
        return sorted(self._sockets)

    def send(self, *message: Any) -> None:
        """The same message to every living process; one that just died is noticed at the next poll."""
        data = marshal.dumps(message)
        for mine in self._sockets.values():
            try:
                mine.send(data)
            except OSError:
                continue

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
                except OSError:
                    data = b""
                if not data:
                    self._gone(index)
                    break
                messages.append((index, marshal.loads(data)))
        return messages

    def _gone(self, index: int) -> None:
        mine = self._sockets.pop(index)
        self._poll.unregister(mine)
        del self._index_of[mine.fileno()]
        mine.close()
        if not self._stopping:
            self.lost[index] = self._how_it_ended(index)

    def _how_it_ended(self, index: int) -> str:
        deadline = time.monotonic() + 1
        while index not in self._ended and time.monotonic() < deadline:
            ready, _, _ = select.select([self._control], [], [], 0.1)
            if ready and not self._read_endings():
                break
        code = self._ended.get(index)
        if code is None:
            return "ended, nobody knows how"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"ended with status {code}"

    def _read_endings(self) -> bool:
        while True:
            try:
                data = self._control.recv(1 << 16)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            _, index, code = marshal.loads(data)
            self._ended[index] = code

    def stop(self, timeout_s: float) -> list[tuple[int, tuple[Any, ...]]]:
        """Tells all to end, collects their last messages, kills what has not ended in time. Idempotent."""
        self._stopping = True
        self.send("quit")
        deadline = time.monotonic() + timeout_s
        messages = []
        while self._sockets and time.monotonic() < deadline:
            messages += self.poll(min(0.2, max(0.0, deadline - time.monotonic())))
        for index in list(self._sockets):
            with suppress(ProcessLookupError):
                os.kill(self.pids[index], signal.SIGKILL)
        while self._sockets:
            messages += self.poll(1)
        try:
            self._zygote.wait(5)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            self._zygote.wait()
        self._control.close()
        return messages


def _sleep(seconds: float) -> list[tuple[int, int]]:
    time.sleep(max(0.0, seconds))
    return []
