"""What a run would do (`--dry-run`), and why it would be refused, before anything is touched."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from rich.console import Console

from connprobe.model import HoldPlan, Obstacle
from connprobe.plan.sysctl.keys import dotted
from connprobe.report import format as fmt
from connprobe.report.layout import Page

_RANGES_SHOWN = 4


def render_plan(plan: HoldPlan, console: Console) -> None:
    """Prints the plan on `console` (stdout)."""
    page = Page(console)
    counts = [shard.count for shard in plan.shards]
    target = plan.target.label if plan.target else "the embedded server"
    if plan.target and plan.target.address != plan.target.host:
        target += f" ({plan.target.address})"
    used = [share.address for shard in plan.shards for share in shard.sources]
    page.line(("Plan: ", "bold"), f"{fmt.count(plan.count)} connections to {target}; nothing was touched")
    rows = [
        ("workers", _workers(plan)),
        ("per worker", _between(counts) + " connections"),
        ("source addresses", f"{fmt.count(plan.source_addresses)}: {collapse(used)}"),
        ("ports per source", f"{fmt.count(plan.ports_per_source)}, {_ports(plan)}"),
    ]
    if plan.alias_addresses:
        where = f" on {plan.alias_interface}, removed at the end" if plan.alias_interface else ""
        rows.append(("addresses to add", collapse(plan.alias_addresses) + where))
    rows += [
        (f"sysctl {dotted(it.key)}", f"{it.before} -> {it.after}, put back at the end") for it in plan.sysctls
    ]
    rows.append(("memory expected", fmt.nbytes(plan.memory_bytes) + ", kernel and user space of this host"))
    if plan.server_processes:
        rows.append(("server processes", fmt.count(plan.server_processes)))
    page.table(rows)
    for note in plan.notes:
        page.paragraph(f"note: {note}", indent=2)


def render_obstacles(obstacles: Sequence[Obstacle], console: Console) -> None:
    """Prints every obstacle at once on `console` (stderr), one line each: a second try should succeed."""
    page = Page(console)
    number = "1 obstacle" if len(obstacles) == 1 else f"{len(obstacles)} obstacles"
    page.line(("refused", "bold red"), f": {number}; nothing was touched")
    for it in obstacles:
        page.line("  ", (it.what, "bold"), f": have {it.have}, need {it.need}; ", ("fix: ", "green"), it.fix)


def collapse(addresses: Iterable[str]) -> str:
    """["127.0.0.2", "127.0.0.3", "127.0.0.4", "10.0.0.9"] -> "10.0.0.9, 127.0.0.2 … 127.0.0.4"."""
    given = {name: _parse(name) for name in addresses if name}
    names = sorted(name for name, address in given.items() if address is None)
    known = sorted({it for it in given.values() if it is not None}, key=lambda it: (it.version, int(it)))
    runs: list[list[IPv4Address | IPv6Address]] = []
    for address in known:
        follows = runs and runs[-1][-1].version == address.version and int(runs[-1][-1]) + 1 == int(address)
        if follows:
            runs[-1].append(address)
        else:
            runs.append([address])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]} … {run[-1]}" for run in runs] + names
    if not texts:
        return "chosen by the kernel"
    rest = len(texts) - _RANGES_SHOWN
    return ", ".join(texts[:_RANGES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None


def _workers(plan: HoldPlan) -> str:
    processes = plan.worker_processes or plan.workers
    of = f" (threads of {processes} processes)" if processes < plan.workers else ""
    return f"{fmt.count(plan.workers)}{of}, {fmt.count(plan.nofile)} file descriptors each"


def _between(counts: Sequence[int]) -> str:
    if not counts:
        return fmt.DASH
    low, high = min(counts), max(counts)
    return fmt.count(low) if low == high else f"{fmt.count(low)} to {fmt.count(high)}"


def _ports(plan: HoldPlan) -> str:
    if plan.source_ports is None:
        return "net.ipv4.ip_local_port_range of the kernel"
    return f"{plan.source_ports[0]}-{plan.source_ports[1]}, bound one by one"
