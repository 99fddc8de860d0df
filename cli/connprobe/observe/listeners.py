"""Which processes accept the connections to an address: found from the outside, by socket inode.

Nothing here lists /proc/PID/fd: a listing instantiates a dentry and an inode (0.9 kB of kernel memory) for
each descriptor, so looking at a server that holds 100,000 connections would change what is measured.
"""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from connprobe.observe.sockdiag import (
    Address,
    ListenSocket,
    is_local,
    listen_sockets,
    listen_sockets_from_proc,
)

HIGHEST_FD = 1024  # servers listen before they accept: the lowest free descriptor is theirs early
LOOPBACK_INTERFACE = 1  # `lo` has index 1 in every network namespace
FIX = "run as root or give --pid"


class ListenerProcesses(NamedTuple):
    """`pids`, ascending, hold a socket that a connection to the address reaches.

    `complete` is False where a further process may hold one; `reason` says what limits the answer.
    """

    pids: tuple[int, ...]
    complete: bool
    reason: str | None


def listener_pids(address: str, port: int) -> ListenerProcesses:
    """The processes that hold a LISTEN socket which a connection from this host to address:port reaches.

    `address` is numeric, IPv6 link-local ones with their scope (fe80::1%eth0). ValueError: it is not.
    """
    target, interface = _parse(address)
    if not is_local(target, interface):
        return ListenerProcesses((), True, "the target is not on this host")
    source = None
    try:
        sockets = listen_sockets(port)
    except OSError as error:
        source = f"listeners read from /proc/net/tcp, as sock_diag said: {error.strerror or error}"
        sockets = listen_sockets_from_proc(port)
    reached = reached_sockets(sockets, target, interface)
    if not reached:
        nobody = f"nothing in this network namespace listens on port {port} of {address}: give --pid"
        return ListenerProcesses((), True, _joined(nobody, source))
    holders, missing, denied = _holders({f"socket:[{entry.inode}]" for entry in reached})
    pids = tuple(sorted(holders))
    # A process that gave up root keeps a listener that root made, and its master cannot be looked into.
    foreign = os.geteuid() != 0 and any(entry.uid != os.geteuid() for entry in reached)
    if denied and (missing or foreign):
        why = f"{denied} processes of other users may hold the listener, and /proc/PID/fd is closed: {FIX}"
        return ListenerProcesses(pids, False, _joined(why, source))
    if missing:
        why = f"no process seen from here holds {missing} of {len(reached)} listeners below fd {HIGHEST_FD}"
        return ListenerProcesses(pids, False, _joined(f"{why}: {FIX}", source))
    return ListenerProcesses(pids, True, source)


def chosen_by(address: str, port: int) -> Callable[[Sequence[ListenSocket]], list[ListenSocket]]:
    """Picks those LISTEN sockets of this network namespace that a connection to address:port reaches.

    ValueError: `address` is not numeric.
    """
    target, interface = _parse(address)
    local = is_local(target, interface)

    def choose(sockets: Sequence[ListenSocket]) -> list[ListenSocket]:
        if not local:
            return []
        return reached_sockets([entry for entry in sockets if entry.port == port], target, interface)

    return choose


def waiting(address: str, port: int) -> int:
    """Connections that lie in the accept queues of address:port; 0 where sock_diag does not tell."""
    try:
        return sum(queued(address, port).values())
    except OSError:
        return 0


def queued(address: str, port: int) -> dict[int, int]:
    """By listener (its inode), the connections in its accept queue. OSError: sock_diag does not tell."""
    return {each.inode: each.depth or 0 for each in chosen_by(address, port)(listen_sockets(port))}


def reached_sockets(sockets: list[ListenSocket], target: Address, interface: int = 0) -> list[ListenSocket]:
    """Those of `sockets` among which the kernel chooses for a connection to `target` (one port).

    As in __inet_lookup_listener and inet6_lookup_listener: a socket bound to the address hides those bound
    to the wildcard; then one bound to the interface, and an AF_INET one, score a point each. Several with
    the same score are an SO_REUSEPORT group, and all of them get connections.
    """
    ranked: dict[tuple[bool, int], list[ListenSocket]] = {}
    for entry in sockets:
        exact = entry.address == target
        if not exact and not _wildcard_serves(entry, target):
            continue
        if entry.interface and target.version == 4 and entry.interface != LOOPBACK_INTERFACE:
            continue  # what this host sends itself arrives by lo; IPv6 keeps the address's own interface
        if entry.interface and interface and entry.interface != interface:
            continue
        score = bool(entry.interface) + (target.version == 4 and entry.family == socket.AF_INET)
        ranked.setdefault((exact, score), []).append(entry)
    return ranked[max(ranked)] if ranked else []


def sockets_of(pid: int, sockets: Sequence[ListenSocket]) -> list[ListenSocket]:
    """Those of `sockets` that a process holds (source: /proc/PID/fd, up to HIGHEST_FD). PermissionError."""
    held = _held(Path("/proc", str(pid)), {f"socket:[{entry.inode}]" for entry in sockets}, first=False)
    return [entry for entry in sockets if f"socket:[{entry.inode}]" in held]


def any_listen_sockets(port: int = 0) -> list[ListenSocket]:
    """`listen_sockets`, and where sock_diag is refused those of /proc, without depth or backlog."""
    try:
        return listen_sockets(port)
    except OSError:
        return listen_sockets_from_proc(port)


def holders_of(sockets: Sequence[ListenSocket]) -> ListenerProcesses:
    """The processes that hold one of `sockets`."""
    holders, missing, denied = _holders({f"socket:[{entry.inode}]" for entry in sockets})
    reason = f"/proc/PID/fd of {denied} processes is closed: {FIX}" if missing and denied else None
    return ListenerProcesses(tuple(sorted(holders)), not missing, reason)


def has_epoll(pid: int) -> bool:
    """Whether a process holds an epoll instance (source: /proc/PID/fd, up to HIGHEST_FD). PermissionError."""
    return bool(_held(Path("/proc", str(pid)), {"anon_inode:[eventpoll]"}, first=True))


def _wildcard_serves(entry: ListenSocket, target: Address) -> bool:
    if not entry.address.is_unspecified:
        return False
    if entry.address.version == target.version:
        return True
    return target.version == 4 and not entry.v6only  # untold (None): the system's default is to serve


def _parse(address: str) -> tuple[Address, int]:
    host, _, scope = address.partition("%")
    target = ipaddress.ip_address(host)
    if isinstance(target, ipaddress.IPv6Address) and target.ipv4_mapped:
        target = target.ipv4_mapped
    if target.is_unspecified:  # connect(2) takes the wildcard for the loopback address
        target = ipaddress.ip_address("127.0.0.1" if target.version == 4 else "::1")
    try:
        return target, int(scope) if scope.isdecimal() else socket.if_nametoindex(scope) if scope else 0
    except OSError as error:
        raise ValueError(f"no interface {scope}") from error


def _holders(links: set[str]) -> tuple[set[int], int, int]:
    """Who holds sockets (`socket:[inode]`), how many of these nobody holds, how many processes are closed."""
    pids: set[int] = set()
    unheld = set(links)
    denied = 0
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                held = _held(process, links, first=True)
            except PermissionError:
                denied += 1
                continue
            unheld -= held
            if held:
                pids.add(int(process.name))
    for pid in pids if unheld else ():  # a server may have one listener for each of its threads
        with contextlib.suppress(PermissionError):  # it became somebody else since
            unheld -= _held(Path("/proc", str(pid)), unheld, first=False)
    return pids, len(unheld), denied


def _held(process: Path, links: set[str], *, first: bool) -> set[str]:
    """Which of `links`, or the `first`, are among HIGHEST_FD descriptors. PermissionError.

    Each descriptor read is instantiated as by a listing: hence the bound, and the end at the first hit.
    """
    held: set[str] = set()
    try:
        status = (process / "status").read_text(errors="replace")
        size = int(status.partition("\nFDSize:")[2].split(maxsplit=1)[0])
        folder = os.open(process / "fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return held  # it exited meanwhile
    try:
        for fd in range(min(size, HIGHEST_FD)):
            try:
                link = os.readlink(str(fd), dir_fd=folder)
            except (FileNotFoundError, ProcessLookupError):
                continue  # not open, or closed since
            if link in links:
                held.add(link)
                if first:
                    break
    finally:
        os.close(folder)
    return held


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)
