"""Starting the embedded server's processes, for `connprobe serve` and for a hold without a target."""

import errno
import os
import resource
import shutil
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from connprobe.errors import RunFailed
from connprobe.fleet.fleet import Fleet
from connprobe.plan.capacity import is_steered
from connprobe.serve import task as columns
from connprobe.serve.task import Task
from connprobe.session.certificate import Certificate, make_certificate

START_S = 30


def start_server(
    address: str,
    port: int,
    processes: int,
    *,
    protocol: str,
    mode: str,
    backlog: int,
    certificate: str | None = None,
    key: str | None = None,
    log: IO[bytes] | None = None,
) -> tuple[Fleet, int]:
    """`processes` processes that listen on one port (0: any free one). Returns them and the port.

    Raises RunFailed when the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as reserved:  # held until all listen: nobody else gets it
        try:
            if port:
                _check_free(family, address, port)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind((address, port))
        except OSError as error:
            raise _refused(address, port, error.strerror or str(error)) from error
        port = reserved.getsockname()[1]
        task = Task(int(family), (address, port), protocol, mode, backlog, 0, certificate, key)
        nofile, cpus = resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.sched_getaffinity(0))
        first = task._replace(steers=processes) if is_steered(processes, nofile, cpus) else task
        tasks = [first, *[task] * (processes - 1)]
        fleet = Fleet("connprobe.serve.server", "connprobe-s", tasks, columns.COLUMNS, log)
        try:
            _wait_until_listening(fleet, processes, address, port)
        except RunFailed:
            fleet.stop(1)
            raise
    return fleet, port


def certificate_of_a_run(directory: Path, undo: ExitStack) -> Certificate:
    """For 127.0.0.1, in `directory`, which goes with `undo`. Raises RunFailed where openssl is missing."""
    undo.callback(shutil.rmtree, directory, ignore_errors=True)
    return make_certificate(directory)


def _check_free(family: int, address: str, port: int) -> None:
    """Without SO_REUSEPORT, which would let us share the port of another server of this user."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))


def _wait_until_listening(fleet: Fleet, processes: int, address: str, port: int) -> None:
    listening = 0
    while listening < processes:
        messages: Sequence[tuple[int, tuple[object, ...]]] = fleet.poll(START_S)
        if fleet.lost:
            raise RunFailed(f"a process of the embedded server {next(iter(fleet.lost.values()))}")
        if not messages:
            raise RunFailed(f"the embedded server did not start within {START_S} s")
        for _, message in messages:
            if message[0] == "refused":
                raise _refused(address, port, str(message[2]))
            listening += 1


def _refused(address: str, port: int, reason: str) -> RunFailed:
    fix = f"ss -ltnp 'sport = :{port}' shows who has it; or choose another port"
    if reason == os.strerror(errno.EADDRNOTAVAIL):
        fix = "ip address shows those of this host; 0.0.0.0 is all of them"
    return RunFailed(f"cannot listen on {address}:{port}: {reason}", fix=fix)
