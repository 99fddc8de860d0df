"""A small process that forks the others, so that none of them carries the command's heavy libraries.

Started by `fleet.Fleet` as a fresh interpreter; reads its orders from standard input, imports the one
module it is to run, freezes the heap so that forks share its pages, and forks one child per task.
Children end when their control socket does: nothing outlives a supervisor that was killed.
"""

import gc
import importlib
import marshal
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from connprobe.fleet.shared import SharedTable


def main() -> None:
    orders = marshal.loads(sys.stdin.buffer.read())
    control = socket.socket(fileno=orders["control"])
    ends: list[int] = orders["children"]
    table = SharedTable(len(ends), orders["columns"], orders["table"])
    module = importlib.import_module(orders["module"])
    shared = module.prepare(orders["tasks"][0])
    terminal = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    for number in terminal:  # these are the supervisor's business
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, terminal)  # blocked since before we were started
    gc.collect()
    gc.disable()
    gc.freeze()

    pids: dict[int, int] = {}
    for index, task in enumerate(orders["tasks"]):
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
            for other in ends:
                if other != ends[index]:
                    os.close(other)
            _name_process(f"{orders['name']}-{index}")
            status = 1
            try:
                module.run(task, table.row(index), socket.socket(fileno=ends[index]), shared)
                status = 0
            finally:
                if status:
                    sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
                os._exit(status)
        pids[pid] = index
    for end in ends:
        os.close(end)
    _name_process(f"{orders['name']}-z")
    if len(pids) == len(ends):
        _tell(control, "forked", sorted(pids, key=lambda pid: pids[pid]))
    while pids:
        pid, wait_status = os.wait()
        _tell(control, "ended", pids.pop(pid), os.waitstatus_to_exitcode(wait_status))


def _tell(control: socket.socket, *message: Any) -> None:
    with suppress(OSError):  # the supervisor is gone, and with it the children's control sockets
        control.send(marshal.dumps(message))


def _name_process(name: str) -> None:
    """What ps and top show; the kernel keeps 15 bytes."""
    comm = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(comm, name[:15].encode())
    os.close(comm)


main()
