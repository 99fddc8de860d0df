"""What `watch` shows: a live table with charts on a terminal, lines elsewhere, and a summary at the end."""

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from connprobe.model import QueueSample, WatchRecord, WatchSample
from connprobe.report import format as fmt
from connprobe.report.ending import render_ending
from connprobe.report.kernel import render_listeners, render_network, render_probes
from connprobe.report.layout import Page
from connprobe.report.limits import render_limits
from connprobe.report.liveview import LiveView
from connprobe.report.sparkline import ASCII, BLOCKS, History, sparkline
from connprobe.report.verdicts import render_verdicts

_QUEUES_SHOWN = 12
_EVERY_S = 5.0
_LABEL = 13
# TCP's counters whose rise is news, with what they say.
_COUNTERS = {
    "PassiveOpens": "accepted",
    "ListenOverflows": "accept queue overflows",
    "ListenDrops": "listen drops",
    "TCPReqQFullDrop": "SYN queue drops",
    "SyncookiesSent": "syncookies",
    "RetransSegs": "retransmits",
    "EstabResets": "resets",
    "OutRsts": "RSTs sent",
    "TCPMemoryPressures": "memory pressure",
}


class WatchView(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def update(self, sample: WatchSample, left_s: float | None) -> None: ...


def watch_view(console: Console, watched: str, *, plain: bool) -> WatchView:
    """The view that fits `console` (stderr): live on a terminal unless `plain`, else lines."""
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return _Lines(console, watched)
    return _Table(console, watched)


class _Lines:
    """A line about every five seconds."""

    def __init__(self, console: Console, watched: str) -> None:
        self._console, self._watched = console, watched
        self._next_s = 0.0

    def __enter__(self) -> Self:
        self._print(f"watching {self._watched}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return None

    def update(self, sample: WatchSample, left_s: float | None) -> None:
        if sample.at_s < self._next_s:
            return
        self._next_s = sample.at_s + _EVERY_S
        queues = sample.kernel.queues
        parts = [
            f"{fmt.duration(round(sample.at_s))}",
            f"{fmt.count(len(queues))} listener{'' if len(queues) == 1 else 's'}",
            f"deepest queue {fmt.count(max((each.depth_max or 0 for each in queues), default=0))}",
            f"{fmt.count(sum(each.overflows or 0 for each in queues))} overflows",
        ]
        if sample.server is not None:
            parts.append(f"server {fmt.nbytes(sample.server.rss_bytes)}, {fmt.count(sample.server.fds)} fds")
        self._print(", ".join(parts))

    def _print(self, line: str) -> None:
        text = Text(fmt.printable(line, encoding=self._console.encoding))
        self._console.print(text, soft_wrap=True, highlight=False)


class _Table(LiveView):
    """The live view."""

    def __init__(self, console: Console, watched: str) -> None:
        super().__init__(console)
        self._console, self._watched = console, watched
        self._depth, self._rate = History(), History()
        self._depth_max = self._rate_max = 0.0  # a history that grew long holds means
        self._last: WatchSample | None = None

    def update(self, sample: WatchSample, left_s: float | None) -> None:
        last, self._last = self._last, sample
        elapsed = sample.at_s - last.at_s if last else sample.at_s
        before = {each.address: each for each in last.kernel.queues} if last else {}
        rates = [
            _rate(each.enqueued, before[each.address].enqueued if each.address in before else None, elapsed)
            for each in sample.kernel.queues
        ]
        depth = float(max((each.depth_max or 0 for each in sample.kernel.queues), default=0))
        queued = sum(rate or 0.0 for rate in rates)
        self._depth.add(depth)
        self._rate.add(queued)
        self._depth_max, self._rate_max = max(depth, self._depth_max), max(queued, self._rate_max)
        head = self._text("connprobe watch", "bold") + self._text(f"  {self._watched}   ")
        head += self._text(fmt.duration(round(sample.at_s)), "dim")
        if left_s is not None:
            head += self._text(f", {fmt.duration(round(max(0.0, left_s)))} left", "dim")
        parts = [head, Text(), *self._queues(sample.kernel.queues, rates), Text(), *self._charts(), Text()]
        parts += self._figures(sample, last, elapsed)
        self._draw(Group(*parts))

    def _text(self, text: str, style: str = "") -> Text:
        return Text(fmt.printable(text, encoding=self._console.encoding), style)

    def _queues(self, queues: tuple[QueueSample, ...], rates: list[float | None]) -> list[Table | Text]:
        if not queues:
            return [self._text("nothing listens there now", "yellow")]
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("accept queue", no_wrap=True)
        for name in ("sockets", "waiting", "deepest", "of", "queued", "overflows"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("wait p50", "p99"):
            table.add_column(name, justify="right")  # a range takes two lines of a narrow terminal
        order = sorted(zip(queues, rates, strict=True), key=lambda one: -(one[0].depth_max or 0))
        for each, rate in order[:_QUEUES_SHOWN]:
            depths = (each.sockets, each.depth, each.depth_max, each.capacity_each)
            table.add_row(
                self._text(each.address),
                *(self._text(fmt.count(figure)) for figure in depths),
                self._text(fmt.rate(rate)),
                self._text(fmt.count(each.overflows), "bold red" if each.overflows else ""),
                self._text(fmt.ms_between(each.wait_p50_least_ms, each.wait_p50_ms)),
                self._text(fmt.ms_between(each.wait_p99_least_ms, each.wait_p99_ms)),
            )
        if len(order) <= _QUEUES_SHOWN:
            return [table]
        return [table, self._text(f"and {fmt.count(len(order) - _QUEUES_SHOWN)} more", "dim")]

    def _charts(self) -> list[Text]:
        levels = BLOCKS if self._fancy else ASCII
        room = max(10, min(self._console.width, 120) - _LABEL - 1)
        lines = []
        for name, history, most in (
            ("deepest", self._depth, fmt.count(self._depth_max)),
            ("queued", self._rate, fmt.rate(self._rate_max)),
        ):
            upper, lower = sparkline(history.values, room, levels=levels)
            lines.append(self._text(name.ljust(_LABEL), "bold") + Text(upper, "cyan"))
            lines.append(self._text(f"max {most}".ljust(_LABEL), "dim") + Text(lower, "cyan"))
        return lines

    def _figures(self, sample: WatchSample, last: WatchSample | None, elapsed: float) -> list[Text]:
        rows = []
        server = sample.server
        if server is not None:
            spent = server.cpu_s - last.server.cpu_s if last and last.server else None
            share = fmt.percent(max(0.0, spent) / elapsed) if spent is not None and elapsed > 0 else fmt.DASH
            cells = [f"{fmt.nbytes(server.rss_bytes)} RSS", f"{share} CPU", f"{fmt.count(server.fds)} fds"]
            cells.append(f"{fmt.count(server.threads)} threads, {fmt.count(len(server.pids))} processes")
            rows.append(("server", cells))
        cells = [f"{fmt.nbytes(sample.memory_available_bytes)} available"]
        cells.append(f"{fmt.nbytes(sample.kernel.slab_bytes)} slab")
        if sample.cpu is not None:
            cpu = sample.cpu
            names = (("user", cpu.user), ("system", cpu.system), ("softirq", cpu.softirq), ("idle", cpu.idle))
            cells += [f"{fmt.percent(share)} {name}" for name, share in names]
        rows.append(("host", cells))
        moved = [
            f"{fmt.count(sample.kernel.counters[name])} {text}"
            for name, text in _COUNTERS.items()
            if name in sample.kernel.counters
        ]
        rows.append(("TCP", moved or ["nothing moved"]))
        own = f"{fmt.nbytes(sample.observer_pss_bytes)} PSS"
        rows.append(("watching", [own, f"{fmt.percent(sample.observer_cpu_s / max(sample.at_s, 1e-3))} CPU"]))
        return [self._text(name.ljust(_LABEL), "bold") + self._text("  ".join(cells)) for name, cells in rows]


def _rate(now: int | None, before: int | None, elapsed_s: float) -> float | None:
    if now is None or before is None or elapsed_s <= 0:
        return None
    return max(0, now - before) / elapsed_s


def render_watch(record: WatchRecord, console: Console, *, results: str | None) -> None:
    """The summary, on `console` (stdout)."""
    page = Page(console)
    page.line(f"Watched {record.watched} for {fmt.duration(record.watched_s)}.")
    render_listeners(record.listeners, page)
    if record.network is not None:
        render_network(record.network, page)
    moved = [(name, fmt.count(value)) for name, value in record.counters.items() if value]
    if moved:
        page.heading("TCP counters of the network namespace that moved")
        page.table(moved)
    page.heading("Watching")
    own = record.observer
    page.table(
        [
            ("readings", fmt.count(own.samples), f"{fmt.count(own.late_samples)} late"),
            ("CPU", fmt.duration(own.cpu_s), fmt.percent(own.cpu_s / max(record.watched_s, 1e-3))),
            ("memory", fmt.nbytes(own.pss_bytes), "PSS"),
        ]
    )
    render_probes(own.probes, page, most_lost=0)
    render_verdicts(record.verdicts, page)
    if record.limits:
        page.console.print()
        kept = "watch.json" if results is not None else "--results keeps them"
        render_limits(record.limits, record.headline, record.connections_most or 0, page, record=kept)
    render_ending(record.unknown, page, results=results)
