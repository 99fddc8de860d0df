"""Node servers that were running before connprobe: through their inspector, opened for one reading at a time.

Who reaches an inspector can run code in the server, and on 127.0.0.1 that is every user of this host. So it
is open for moments only, and the process itself closes it should connprobe die meanwhile.
"""

import os
import re
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from connprobe.observe.procfs import command_line, read_text
from connprobe.observe.runtimes.cdp import Session
from connprobe.observe.runtimes.interface import TIMEOUT_S, HeapUnknown, Where
from connprobe.observe.runtimes.listening import held, listeners
from connprobe.observe.runtimes.recognise import environment_variable
from connprobe.observe.runtimes.v8 import Heap, read_answer
from connprobe.observe.sockdiag import ListenSocket

PORTS: Final = range(9229, 9300)  # Node's own, and what cluster counts on to
OPENING_S: Final = 2.0
GRACE_S: Final = 5.0
POLL_S: Final = 0.01
HEAP: Final = Path(__file__).with_name("heap.cjs").read_text()

# `require` is there while an expression is evaluated only: it is taken along. `process` keeps what undoes it
# all, and a timer does it even where nobody comes back for it.
BEGIN: Final = """((require) => {
  const exports = {};
  %(heap)s
  const name = Symbol.for('connprobe');
  if (process[name]) process[name].end();
  const restore = %(collect)s ? exports.guardless() : () => {};
  const inspector = require('inspector');
  const close = () => { if (%(opened)s) setImmediate(() => setImmediate(() => inspector.close())); };
  const end = () => { restore(); clearTimeout(timer); delete process[name]; };
  const timer = setTimeout(() => { end(); close(); }, %(undo_ms)d).unref();
  process[name] = { heap: exports.heap, end, close };
})(require)"""
END: Final = """(() => {
  const { heap, end, close } = process[Symbol.for('connprobe')];
  end();
  close();
  return JSON.stringify(heap());
})()"""
CLOSE: Final = """((inspector) => {
  setImmediate(() => setImmediate(() => inspector.close()));
})(require('inspector'))"""


class _Foreign(ValueError):
    """What listens is the inspector of another process: hands off."""


def heaps(pids: Sequence[int], *, collect: bool) -> dict[Where, Heap]:
    """The heap of each of the Node processes `pids` that still runs. Raises HeapUnknown."""
    until = time.monotonic() + TIMEOUT_S
    return {Where(pid): heap for pid in pids if (heap := _heap(pid, collect, until)) is not None}


def _heap(pid: int, collect: bool, until: float) -> Heap | None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if _namespace(pid) != _namespace("self"):
            raise HeapUnknown(
                f"process {pid} is in another network namespace, where its inspector cannot be reached: run "
                f"connprobe in it, nsenter -t {pid} -n"
            )
        port = _open_already(pid)
        if port is not None:
            return _read(pid, port, collect, opened=False, until=until)
        port = _open(pid, process, until)
        try:
            heap = _read(pid, port, collect, opened=True, until=until)
        except _Foreign:
            raise
        except BaseException:
            _closed(pid, port)
            raise
        _closed(pid, port)
        return heap
    except (FileNotFoundError, ProcessLookupError, ConnectionError) as error:
        raise HeapUnknown(f"process {pid} ended while its heap was read") from error
    except TimeoutError as error:
        raise HeapUnknown(
            f"process {pid} told nothing of its heap within {TIMEOUT_S:.0f} s: its event loop is busy, or it "
            "is stopped"
        ) from error
    except PermissionError as error:
        raise HeapUnknown(f"process {pid} is another user's: run as root") from error
    except (OSError, ValueError) as error:
        raise HeapUnknown(f"the inspector of process {pid} cannot be used: {error}") from error
    finally:
        os.close(process)


def _read(pid: int, port: int, collect: bool, *, opened: bool, until: float) -> Heap:
    with Session(port, until) as session:
        if session.evaluate("String(process.pid)") != str(_own_pid(pid)):
            raise _Foreign(f"port {port} belongs to another process")
        settings = {"heap": HEAP, "collect": _js(collect), "opened": _js(opened)}
        session.evaluate(BEGIN % {**settings, "undo_ms": 1000 * (TIMEOUT_S + GRACE_S)})
        if collect:
            session.call("HeapProfiler.collectGarbage")
        return read_answer((session.evaluate(END) or "").encode())


def _open_already(pid: int) -> int | None:
    """The port of an inspector that the process was started with."""
    wanted = {*PORTS, *_given(pid)}
    candidates = {listener.inode: listener.port for listener in _listeners(pid) if listener.port in wanted}
    own = held(pid) if candidates else set()
    return next((port for inode, port in candidates.items() if inode in own), None)


def _open(pid: int, process: int, until: float) -> int:
    """Has the process open its inspector: SIGUSR1, which ends one that does not expect it."""
    before = {listener.inode for listener in _listeners(pid)}
    wanted = _given(pid) or {PORTS[0]}
    caught = re.search(r"^SigCgt:\t([0-9a-f]+)$", read_text(pid, "status"), re.MULTILINE)
    if caught is None or not int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1:
        raise HeapUnknown(f"process {pid} opens no inspector on SIGUSR1: start it with node --inspect")
    signal.pidfd_send_signal(process, signal.SIGUSR1)
    last = min(until, time.monotonic() + OPENING_S)
    while time.monotonic() < last:
        for listener in _listeners(pid):
            if listener.inode not in before and (listener.port in wanted or listener.inode in held(pid)):
                return listener.port
        if select.select([process], [], [], POLL_S)[0]:
            raise ProcessLookupError
    raise HeapUnknown(
        f"process {pid} opened no inspector on SIGUSR1: its port is taken (9229 unless --inspect-port names "
        "another), or its program handles the signal itself; start it with node --inspect"
    )


def _given(pid: int) -> set[int]:
    """Ports that its options name for the inspector."""
    words = [*command_line(pid), *(environment_variable(pid, "NODE_OPTIONS") or "").split()]
    matches = (re.fullmatch(r"--inspect(?:-brk|-wait|-port)?=(?:.*:)?(\d{1,5})", word) for word in words)
    return {int(match[1]) for match in matches if match} - {0}


def _closed(pid: int, port: int) -> None:
    """Returns once the inspector that we opened is closed; what went wrong before must not leave it open."""
    until = time.monotonic() + OPENING_S
    if _closes(pid, port, until):
        return
    with suppress(OSError, ValueError), Session(port, until + OPENING_S) as session:
        session.evaluate(CLOSE)
    if not _closes(pid, port, until + 2 * OPENING_S):
        raise HeapUnknown(
            f"the inspector of process {pid} is still open on 127.0.0.1:{port}: it closes once its event "
            "loop is free, or with a restart"
        )


def _closes(pid: int, port: int, until: float) -> bool:
    while any(listener.port == port for listener in _listeners(pid)):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


def _listeners(pid: int) -> list[ListenSocket]:
    """That can be reached on 127.0.0.1."""
    return [each for each in listeners(pid) if each.address.is_loopback or each.address.is_unspecified]


def _namespace(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _own_pid(pid: int) -> int:
    """As the process itself sees it, in its pid namespace."""
    match = re.search(r"^NSpid:(?:\t\d+)*\t(\d+)$", read_text(pid, "status"), re.MULTILINE)
    return int(match[1]) if match else pid


def _js(value: bool) -> str:
    return "true" if value else "false"
