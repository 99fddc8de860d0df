"""`serve` as a whole: start the processes, wait for a signal, stop them."""

from ipaddress import ip_address
from typing import Any

from rich.console import Console

from connprobe.plan.capacity import server_processes_for
from connprobe.serve import task as columns
from connprobe.session.embedded import start_server
from connprobe.session.interrupts import Interrupts
from connprobe.session.target import resolve
from connprobe.system.facts import raise_nofile, read_facts


def serve_until_told(
    host: str, port: int, processes: int | None, count: int, err: Console, **options: Any
) -> int:
    """Exit code 0 after SIGTERM or Ctrl-C, 1 when a process of the server ended by itself."""
    nofile, _ = raise_nofile(count + 1024)
    number = processes or server_processes_for(count, nofile, read_facts().cpus)
    address = resolve(host, port).address
    with Interrupts() as interrupts:
        fleet, port = start_server(address, port, number, **options)
        with fleet:
            shown = f"[{address}]:{port}" if ip_address(address).version == 6 else f"{address}:{port}"
            err.print(f"listening on {shown}", markup=False)
            while interrupts.by is None and not fleet.lost:
                fleet.poll(0.2)
    accepted, open_now = fleet.table.total(columns.ACCEPTED), fleet.table.total(columns.OPEN)
    err.print(f"accepted {accepted:,} connections, {open_now:,} were open at the end", markup=False)
    for how in fleet.lost.values():
        err.print(f"a process of the server {how}", markup=False)
    return 1 if fleet.lost else 0
