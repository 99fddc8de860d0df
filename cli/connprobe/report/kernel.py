"""The kernel's part of a summary: accept queues, memory by slab, and what answered each question."""

from collections.abc import Sequence

from connprobe.model import KernelFigures, ListenerFigures, NetworkFigures, ProbeUse, RunRecord
from connprobe.report import format as fmt
from connprobe.report.layout import Page
from connprobe.report.rows import Rows

_SLABS_SHOWN = 8
_LISTENERS_SHOWN = 10


def render_kernel(record: RunRecord, page: Page) -> None:
    render_listeners(record.listeners, page)
    if record.network is not None:
        render_network(record.network, page)
    if record.kernel is not None:
        _memory(record.kernel, page)
    render_probes(record.observer.probes, page, most_lost=record.held // 100)


def render_listeners(listeners: tuple[ListenerFigures, ...], page: Page) -> None:
    if not listeners:
        return
    page.heading("Accept queue")
    rows = []
    for each in listeners[:_LISTENERS_SHOWN]:
        sockets = f"{fmt.count(len(each.sockets))} sockets; " if len(each.sockets) > 1 else ""
        row = (each.address, fmt.count(each.depth_max), fmt.count(each.capacity), fmt.count(each.overflows))
        rows.append((*row, *waits(each), sockets + each.source))
    header = ("", "deepest", "capacity", "overflows", "wait p50", "p99", "max", "")
    page.figures(Rows(header, rows))
    about = [text for each in listeners[:_LISTENERS_SHOWN] for text in (each.reason, inference(each)) if text]
    for text in dict.fromkeys(about):
        page.paragraph(text, "dim", indent=2)
    if len(listeners) > _LISTENERS_SHOWN:
        page.paragraph(f"and {fmt.count(len(listeners) - _LISTENERS_SHOWN)} more, in run.json", indent=2)


def waits(listener: ListenerFigures) -> tuple[str, str, str]:
    """p50, p99 and the longest."""
    most, least = (
        (each.p50, each.p99, each.max) if each else (None, None, None)
        for each in (listener.wait_ms, listener.wait_least_ms)
    )
    p50, p99, longest = map(fmt.ms_between, least, most)
    return p50, p99, longest


def inference(listener: ListenerFigures) -> str | None:
    """Where the waits come from, if not from each accept."""
    if listener.wait_least_ms is None:
        return None
    return (
        f"{listener.address}: its accepts were not seen one by one; its waits, at least and at most, are "
        "from the queue's first-in-first-out order"
    )


def render_network(network: NetworkFigures, page: Page) -> None:
    """What became of the connections: a line for what was counted, and for what went wrong."""
    rows = []
    for each in network.lifecycle or ():
        if each.role == "server":
            ends = f"{fmt.count(each.closed)} closed, {fmt.count(each.failed)} failed"
            resets = f"resets: {fmt.count(each.resets_sent)} sent, {fmt.count(each.resets_received)} received"
            here = f"{fmt.count(each.established)} established now"
            again = f"{fmt.count(each.retransmits)} retransmits"
            rows.append(
                (
                    f"port {each.port}",
                    f"{fmt.count(each.opened)} opened",
                    "; ".join((here, ends, resets, again)),
                )
            )
    for queue in network.syn_queues or ():
        half = f"{fmt.count(queue.depth_max)} of {fmt.count(queue.backlog)} at most"
        lost = f"{fmt.count(queue.synack_retransmits)} SYN-ACKs sent again, {fmt.count(queue.drops)} drops"
        rows.append(("half open", half, f"{queue.address}; {lost}" + ("; was full" if queue.flooded else "")))
    if network.cpu is not None:
        cpu = network.cpu
        parts = [
            f"{name} {fmt.duration(use.softirq_s)}"
            for name, use in (("server", cpu.target), ("client", cpu.client))
            if use
        ]
        rows.append(
            (
                "network softirqs",
                fmt.duration(cpu.net_rx_s + cpu.net_tx_s),
                "in the context of: " + ", ".join(parts) if parts else "",
            )
        )
    if network.pressure is not None:
        want = network.pressure
        found = [
            f"{fmt.count(number)} {what}"
            for number, what in (
                (want.refused_send + want.refused_receive, "buffers refused"),
                (want.oom_kills, "OOM kills"),
                (want.direct_reclaims or 0, "direct reclaims"),
                (want.cgroup_reclaims or 0, "reclaims of a memory cgroup"),
                (sum((want.drops or {}).values()), "packets dropped for want of memory"),
            )
            if number
        ]
        if found:
            rows.append(("memory", "short", ", ".join(found)))
    if rows:
        page.heading("In the kernel")
        page.table(rows)


def _memory(kernel: KernelFigures, page: Page) -> None:
    page.heading("Kernel memory of one connection")
    ends = {1: "one end on this host", 2: "both ends on this host", None: ""}[kernel.ends]
    total = "in all" if kernel.complete else "of those seen"
    rows = [(total, fmt.nbytes(kernel.bytes_per_connection), "", "")]
    for name, size in list(kernel.slabs.items())[:_SLABS_SHOWN]:
        number = kernel.objects_per_connection.get(name)
        objects = fmt.number(round(number, 2)) if number is not None else ""
        rows.append((f"  {name}", fmt.nbytes(size), objects, ""))
    if len(kernel.slabs) > _SLABS_SHOWN:
        rest = sum(list(kernel.slabs.values())[_SLABS_SHOWN:])
        rows.append(("  others", fmt.nbytes(rest), "", ""))
    page.figures(Rows(("", "a connection", "objects", ""), rows))
    page.paragraph(", ".join(it for it in (kernel.source, ends) if it), "dim", indent=2)
    if kernel.reason:
        page.paragraph(kernel.reason + (f"; fix: {kernel.fix}" if kernel.fix else ""), "dim", indent=2)


def render_probes(probes: Sequence[ProbeUse], page: Page, *, most_lost: int) -> None:
    """Only what did not go as it should: a probe that serves on its best rung is no news."""
    doubtful = [use for use in probes if use.reason or sum(use.lost.values()) > most_lost]
    if not doubtful:
        return
    page.heading("Watching the kernel")
    for use in doubtful:
        parts = [use.source or "not answered"]
        if use.reason:
            parts.append(use.reason)
        parts += [f"not counted: {fmt.count(number)} {cause}" for cause, number in use.lost.items()]
        page.paragraph(f"{use.name}: {'; '.join(parts)}", indent=2)
        if use.fix:
            page.line("      ", ("fix: ", "green"), use.fix)
