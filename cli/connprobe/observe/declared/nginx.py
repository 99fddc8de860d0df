"""worker_connections of nginx, from the configuration that the running master was started with.

Measured with nginx 1.22.1: every worker has a table of worker_connections entries, from which it takes one
for each of its listening sockets and one for the channel to the master. With 3,000 and one listener it
serves 2,998 requests at once, and half as many where each is passed on to a server behind. It then accepts
a connection and closes it at once. Connections that wait for a request are closed earlier: once no more
than 1/16 of the table is free, up to 32 of them at each accept (ngx_drain_connections), after 2,811.
"""

from collections.abc import Sequence
from pathlib import Path

import psutil

from connprobe.model import Ceiling
from connprobe.observe.declared.nginxconf import Directive, built_with, configuration, read
from connprobe.observe.listeners import sockets_of
from connprobe.observe.procfs import command_line, read_status, seen_by
from connprobe.observe.sockdiag import listen_sockets_from_proc

DEFAULT = 512  # worker_connections: DEFAULT_CONNECTIONS in src/event/ngx_event.c
KEPT_FREE = 16  # of the table, one part in so many: below, connections between requests are closed
CLOCK_S = 1.0  # a start time is counted from the boot, which is told to the second
_MASTER = "nginx: master process "
_WORKER = "nginx: worker process"


def ceilings(pids: Sequence[int], ports: Sequence[int], between_requests: bool) -> list[Ceiling]:
    """For the worker that fills up first. OSError, ValueError: the configuration cannot be read."""
    ours = [pid for pid in pids if read_status(pid).name == "nginx"]
    if not ours:
        return []
    titles = {pid: " ".join(command_line(pid)).strip() for pid in ours}
    workers = sorted(pid for pid, title in titles.items() if title == _WORKER)
    master = next((pid for pid, title in titles.items() if title.startswith(_MASTER)), None)
    if master is None and workers:
        master = read_status(workers[0]).parent
        titles[master] = " ".join(command_line(master)).strip()
    alone = master is None  # master_process off
    process = master if master is not None else ours[0]
    file, extra = _configuration(process, titles[process], alone)
    directives = read(file, lambda path: seen_by(process, path), extra)
    declared = next(
        (each for each in directives if each.name == "worker_connections" and each.blocks == ("events",)),
        None,
    )
    if declared is None:
        size, where = DEFAULT, f"{file} (not set: the default)"
    else:
        if len(declared.words) != 2 or not declared.words[1].isdecimal():
            raise ValueError(f"{declared.file}:{declared.line}: {' '.join(declared.words)}: not a number")
        size, where = int(declared.words[1]), f"{declared.file}:{declared.line}"
    listening = _listening(workers[0] if workers else process, directives)
    own = listening + (0 if alone else 1)
    capacity = size - own - (size // KEPT_FREE if between_requests else 0)
    sockets = f"{listening} listening socket{'s' if listening != 1 else ''}"
    notes = [
        f"worker_connections {size:,}, less {sockets}{'' if alone else ' and the channel to the master'}"
    ]
    if between_requests:
        notes.append(f"less {size // KEPT_FREE:,}: connections between requests are closed to keep 1/16 free")
    if len(workers) > 1:
        notes.append(f"of each of {len(workers)} workers: the fullest one refuses, though others have room")
    if stale := _changed_since(process, workers, [file, *(each.file for each in directives)]):
        notes.append(f"{stale} is newer than the workers: they may run with another value")
    fix = f"worker_connections {2 * size}; in {declared.file if declared else file}, then kill -HUP {process}"
    return [
        Ceiling(
            resource="server_config",
            scope="nginx worker" if not alone else f"nginx (pid {process})",
            capacity=max(0, capacity),
            source=where,
            fix=fix,
            metric="process_fds_grown",
            unit="connections",
            processes=max(1, len(workers)),
            note="; ".join(notes),
        )
    ]


def _configuration(pid: int, title: str, alone: bool) -> tuple[Path, str]:
    built = built_with(Path(f"/proc/{pid}/exe"))
    arguments = title.partition(" ")[2] if alone else title.removeprefix(_MASTER).partition(" ")[2]
    file, extra = configuration(arguments, built)
    if not file.is_absolute():
        file = Path(f"/proc/{pid}/cwd").readlink() / file
    return file, extra


def _listening(pid: int, directives: Sequence[Directive]) -> int:
    """Entries that a worker's listeners take: of SO_REUSEPORT ones it holds all, and serves one."""
    try:
        held = {
            (each.family, each.address, each.port)
            for each in sockets_of(pid, listen_sockets_from_proc(pid=pid))
        }
    except OSError:
        held = set()
    written = {each.words[1] for each in directives if each.name == "listen" and len(each.words) > 1}
    other = {
        each.words[1]
        for each in directives
        if each.name == "listen"
        and len(each.words) > 1
        and (each.words[1].startswith("unix:") or {"udp", "quic"} & set(each.words[2:]))
    }
    return len(held) + len(other) if held else len(written)


def _changed_since(master: int, workers: Sequence[int], files: Sequence[Path]) -> Path | None:
    """A file that was written after the oldest worker began: a reload replaces all workers."""
    began = min(psutil.Process(pid).create_time() for pid in (workers or [master])) + CLOCK_S
    for file in dict.fromkeys(files):
        try:
            if seen_by(master, file).stat().st_mtime > began:
                return file
        except OSError:
            continue  # "-g", or it is gone
    return None
