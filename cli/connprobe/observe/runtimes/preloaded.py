"""Node servers that connprobe starts: a preload answers from inside, on a unix socket for each process.

NODE_OPTIONS reaches every Node process that the command leads to, through shells, npm and cluster, so it is
the one way that needs no open port and no signal.
"""

import os
import re
import shutil
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from connprobe.observe.runtimes.interface import TIMEOUT_S, HeapUnknown, left
from connprobe.observe.runtimes.v8 import Heap, read_answer

PRELOAD: Final = Path(__file__).with_name("preload.cjs")
COLLECT, AS_IT_IS = b"g", b"s"
MOST_BYTES = 64 << 10  # of one answer: about 1 kB
MOST_SOCKETS = 4096  # in the directory, to which the server writes

_is_socket = re.compile(r"[0-9]{1,10}").fullmatch
_CREDENTIALS = struct.Struct("=3i")  # struct ucred: pid, uid, gid


class Preparation(NamedTuple):
    """environment: to be added to a server's before it is started. close() takes the sockets away again."""

    environment: dict[str, str]
    directory: Path

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def prepare(directory: Path, environment: Mapping[str, str]) -> Preparation:
    """Variables that make Node processes answer in `directory`, which is 0700 and belongs to us alone.

    environment: what the server would be started with; what it has in NODE_OPTIONS stays. OSError.
    """
    sockets = directory.resolve() / "heaps"
    sockets.mkdir(mode=0o700, exist_ok=True)
    options = environment.get("NODE_OPTIONS", "").strip()
    return Preparation(
        {
            "NODE_OPTIONS": f"{options} --require {_quoted(str(PRELOAD))}".strip(),
            "CONNPROBE_HEAP_SOCKETS": str(sockets),
        },
        sockets,
    )


def _quoted(path: str) -> str:
    r"""As NODE_OPTIONS is split: at spaces, unless between quotes, in which \ takes a meaning away."""
    if not set(path) & set(' "\\'):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def heaps(directory: Path, pids: Sequence[int], *, collect: bool) -> dict[int, Heap]:
    """The heap of each Node process among `pids` that answers in `directory`, by its pid.

    collect: after a full collection in all of them at once. Raises HeapUnknown if one of them fails to.
    """
    until = time.monotonic() + TIMEOUT_S
    with ExitStack() as stack:
        asked: dict[int, socket.socket] = {}
        for pid, connection in _connections(directory, stack, until):
            if pid in pids:
                try:
                    connection.sendall(COLLECT if collect else AS_IT_IS)
                except OSError as error:
                    raise _gone(pid) from error
                asked[pid] = connection
        return {pid: _heap(pid, connection, until) for pid, connection in asked.items()}


def _connections(directory: Path, stack: ExitStack, until: float) -> list[tuple[int, socket.socket]]:
    """With the pid that listens at the other end: the name of a socket is what its maker says it is."""
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    stack.callback(os.close, opened)
    found = []
    with os.scandir(opened) as entries:
        names = [entry.name for _, entry in zip(range(MOST_SOCKETS), entries, strict=False)]
    for name in filter(_is_socket, names):
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            connection.settimeout(left(until))
            connection.connect(f"/proc/self/fd/{opened}/{name}")
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:  # its process has ended
            connection.close()
            continue
        found.append((_CREDENTIALS.unpack(raw)[0], connection))
    return found


def _heap(pid: int, connection: socket.socket, until: float) -> Heap:
    line = bytearray()
    while not line.endswith(b"\n"):
        try:
            connection.settimeout(left(until))
            data = connection.recv(MOST_BYTES)
        except TimeoutError:
            raise HeapUnknown(
                f"process {pid} told nothing of its heap within {TIMEOUT_S:.0f} s: its event loop is busy, "
                "or it is stopped"
            ) from None
        except OSError as error:
            raise _gone(pid) from error
        if not data:
            raise _gone(pid)
        line += data
        if len(line) > MOST_BYTES:
            raise _odd(pid)
    try:
        return read_answer(bytes(line))
    except ValueError as error:
        raise _odd(pid) from error


def _gone(pid: int) -> HeapUnknown:
    return HeapUnknown(f"process {pid} gave no answer about its heap: it ended, or V8 could not collect it")


def _odd(pid: int) -> HeapUnknown:
    return HeapUnknown(f"process {pid} answered with something else than its heap: run it under --inspect")
