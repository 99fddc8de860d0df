"""Node servers that connprobe starts: a preload answers from inside, on a unix socket for each process.

NODE_OPTIONS reaches every Node process that the command leads to, through shells, npm and cluster, so it is
the one way that needs no open port and no signal.
"""

import os
import re
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple

from connprobe.observe.runtimes.interface import TIMEOUT_S, HeapUnknown, Where, left
from connprobe.observe.runtimes.place import Place
from connprobe.observe.runtimes.v8 import Heap, read_answer

PRELOAD: Final = Path(__file__).with_name("preload.cjs")
VARIABLES: Final = ("NODE_OPTIONS", "CONNPROBE_HEAP_SOCKETS")
FILES: Final = (PRELOAD, PRELOAD.with_name("heap.cjs"))
COLLECT, AS_IT_IS = b"g", b"s"
MOST_BYTES = 64 << 10  # of one answer: about 1 kB
MOST_SOCKETS = 4096  # in the directory, to which the server writes
THREAD_S = 0.5  # for a worker thread that never answered: many wait for work in a way that answers nobody

_socket_name = re.compile(r"[0-9]{1,10}(?:-([0-9]{1,4}))?").fullmatch
_CREDENTIALS = struct.Struct("=3i")  # struct ucred: pid, uid, gid


class Preparation(NamedTuple):
    """environment: to be added to a server's before it is started. close() takes files and sockets away."""

    environment: dict[str, str]
    directory: Path  # of the sockets
    place: Place

    def close(self) -> None:
        self.place.close()


def prepare(environment: Mapping[str, str]) -> Preparation:
    """Variables that make Node processes answer, whichever user they run as.

    environment: what the server would be started with; what it has in NODE_OPTIONS stays. OSError.
    """
    place = Place(FILES)
    options = environment.get("NODE_OPTIONS", "").strip()
    preload = str(place.directory / PRELOAD.name)
    values = (f"{options} --require {_quoted(preload)}".strip(), str(place.sockets))
    return Preparation(dict(zip(VARIABLES, values, strict=True)), place.sockets, place)


def _quoted(path: str) -> str:
    r"""As NODE_OPTIONS is split: at spaces, unless between quotes, in which \ takes a meaning away."""
    if not set(path) & set(' "\\'):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def heaps(directory: Path, pids: Sequence[int], silent: set[Where], *, collect: bool) -> dict[Where, Heap]:
    """The heap of each Node process among `pids` that answers in `directory`, and of its worker threads.

    collect: after a full collection: of all processes at once, of the threads of one after each other, as a
    flag that is set for it is the process's. Raises HeapUnknown if a process fails to; a thread that does not
    answer is not in it, and gets into `silent`: it is not asked again.
    """
    until = time.monotonic() + TIMEOUT_S
    found: dict[Where, Heap] = {}
    with ExitStack() as stack:
        threads: dict[int, list[_Connection]] = {}
        for each in _connections(directory, stack, until):
            if each.where.pid in pids and each.where not in silent:
                threads.setdefault(each.where.pid, []).append(each)
        ordered = [sorted(each, key=lambda one: one.where) for each in threads.values()]
        for turn in zip_longest(*ordered):
            asked = [each for each in turn if each is not None]
            for each in asked:
                _ask(each, collect)
            for where, connection in asked:
                try:
                    most = min(until, time.monotonic() + THREAD_S) if where.thread and not collect else until
                    found[where] = _heap(where.pid, connection, most)
                except HeapUnknown:
                    if not where.thread:
                        raise
                    silent.add(where)
    return found


class _Connection(NamedTuple):
    where: Where
    socket: socket.socket


def _ask(connection: _Connection, collect: bool) -> None:
    try:
        connection.socket.sendall(COLLECT if collect else AS_IT_IS)
    except OSError as error:
        if not connection.where.thread:
            raise _gone(connection.where.pid) from error


def _connections(directory: Path, stack: ExitStack, until: float) -> list[_Connection]:
    """With the pid that listens at the other end: the name of a socket is what its maker says it is."""
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    stack.callback(os.close, opened)
    found = []
    with os.scandir(opened) as entries:
        names = [entry.name for _, entry in zip(range(MOST_SOCKETS), entries, strict=False)]
    for name in filter(None, map(_socket_name, names)):
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            connection.settimeout(left(until))
            connection.connect(f"/proc/self/fd/{opened}/{name[0]}")
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:  # its process has ended
            connection.close()
            continue
        found.append(_Connection(Where(_CREDENTIALS.unpack(raw)[0], int(name[1] or 0)), connection))
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
