"""What a person watches while connections are opened and held: a live view, or plain lines where
stderr is no terminal. Nothing here runs in a thread: the main loop calls `update`.
"""

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from connprobe.model import KernelSample, Sample, ServerUse
from connprobe.report import format as fmt
from connprobe.report.liveview import LiveView
from connprobe.report.plain import UNBOUNDED, PlainProgress, over
from connprobe.report.sparkline import ASCII, BLOCKS, History, sparkline

_LABEL = 13  # columns of the names at the left
_CELL = 15  # columns of one figure, or a multiple
_CHART_MIN_WIDTH = 30
_Row = tuple[str, list[tuple[str, str]], str]  # name, figures with what they are, style
_PHASES = {
    "load": "loading",
    "start": "starting",
    "ramp": "opening",
    "settle": "waiting for memory to settle",
    "hold": "holding",
    "peak": "at the peak",
    "idle": "idle",
    "messaging": "messaging",
    "drain": "closing all, to see what memory comes back",
    "verify": "on until it breaks",
    "check": "checking",
    "close": "closing",
}


class Progress(Protocol):
    """What the main loop sees of either view."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def update(self, sample: Sample, phase_left_s: float | None = None, note: str | None = None) -> None: ...


def progress(
    console: Console,
    *,
    asked: int,
    title: str,
    hold_s: float | None,
    stays: bool = True,
    plain: bool = False,
) -> Progress:
    """The view that fits `console` (stderr): live on a terminal unless `plain`, else lines.

    asked: 0: nobody said how many. stays: False: connections come and go, and those are shown that are over.
    """
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return PlainProgress(console, asked=asked, title=title, hold_s=hold_s, stays=stays)
    return Dashboard(console, asked=asked, title=title, hold_s=hold_s, stays=stays)


class _Rates:
    """Figures that need two samples: the mean rate of the ramp, and the CPU share of the server."""

    def __init__(self) -> None:
        self._last: Sample | None = None
        self._began_s = 0.0
        self._ramp_s = 0.0
        self._opened = 0
        self.mean_per_s: float | None = None
        self.server_cpu: float | None = None  # cores in use, 1.0 = one core
        self.server_seen: ServerUse | None = None

    def add(self, sample: Sample) -> bool:
        """Takes a sample in. False if it is the one already seen: the loop draws more often than it reads."""
        last = self._last
        if last is not None and sample.at_s == last.at_s:
            return False
        if last is not None and sample.at_s < last.at_s:  # the next trial
            last, self._began_s, self._ramp_s, self._opened = None, 0.0, 0.0, 0
        if sample.started == 0:
            self._began_s = sample.at_s
        elif sample.phase in ("ramp", "load") and sample.at_s > self._began_s:
            # A ramp in steps waits between them, which is none of its time.
            since_s, before = (last.at_s, last.established) if last else (self._began_s, 0)
            self._ramp_s += sample.at_s - since_s
            self._opened += sample.established - before
            self.mean_per_s = self._opened / self._ramp_s
        elif self.mean_per_s is None and sample.at_s > self._began_s:
            self.mean_per_s = sample.established / (sample.at_s - self._began_s)  # over before a reading
        self.server_cpu = None
        if last and last.server and sample.server and last.server.pids == sample.server.pids:
            spent = sample.server.cpu_s - last.server.cpu_s
            self.server_cpu = max(spent, 0.0) / (sample.at_s - last.at_s)
        self.server_seen = sample.server or self.server_seen
        self._last = sample
        return True


class Dashboard(LiveView):
    """The live view.

    `title` says what is opened where, e.g. "ws to 127.0.0.1:8080"; it may hold anything, and is escaped.
    """

    def __init__(
        self, console: Console, *, asked: int, title: str, hold_s: float | None, stays: bool = True
    ) -> None:
        super().__init__(console)
        self._console = console
        self._asked = asked
        self._title = title
        self._hold_s, self._stays = hold_s, stays
        self._held = History()
        self._rate = History()
        self._rates = _Rates()

    def update(self, sample: Sample, phase_left_s: float | None = None, note: str | None = None) -> None:
        """Draws `sample`; seconds left in its phase if known, and a short remark for the last line."""
        if self._rates.add(sample):
            self._held.add(self._reached(sample))
            self._rate.add(sample.rate_per_s)
        self._draw(self._view(sample, phase_left_s, note))

    def _view(self, sample: Sample, left_s: float | None, note: str | None) -> Panel | Text:
        size = self._console.size
        framed = size.width >= 40
        # Framed, two columns stay free: the ^C that a terminal echoes must not wrap the last line.
        width = max(size.width - 6 if framed else size.width, 1)
        lines = [*self._progress(sample, left_s, width), Text()]
        figures = self._figures(sample, width)
        if note:
            figures.append(self._text(note, "yellow"))
        if width >= _CHART_MIN_WIDTH and size.height >= len(lines) + len(figures) + 9:
            lines += [*self._charts(width), Text()]
        body = Text("\n", no_wrap=True, overflow="crop", end="").join([*lines, *figures])
        body.no_wrap, body.overflow = True, "crop"
        if not framed:
            return body
        title = Text.assemble(("connprobe", "bold"), "  ", self._text(self._title))
        return Panel(
            body, title=title, title_align="left", border_style="dim", padding=(0, 1), width=width + 4
        )

    @property
    def _what(self) -> str:
        return "held" if self._stays else "over"

    def _reached(self, sample: Sample) -> int:
        return sample.held if self._stays else over(sample)

    def _text(self, text: str, style: str = "") -> Text:
        return Text(fmt.printable(text, encoding=self._console.encoding, limit=400), style)

    def _progress(self, sample: Sample, left_s: float | None, width: int) -> list[Text]:
        reached = self._reached(sample)
        share = reached / self._asked if self._asked else None
        colour = "green" if reached >= self._asked else "cyan"
        phase = _PHASES[sample.phase]
        if sample.phase == "hold" and self._hold_s is not None:
            phase += f" {fmt.duration(self._hold_s)}"
        left = f"{fmt.duration(round(left_s))} left   " if left_s is not None else ""
        clock = f"{left}{fmt.duration(round(sample.at_s))} since start"
        beyond = sample.phase in UNBOUNDED or not self._asked
        asked = f" {self._what}" if beyond else f" of {fmt.count(self._asked)} {self._what}"
        head = Text.assemble((fmt.count(reached), f"bold {colour}"), (asked, "bold"), "   ")
        head.append(phase, "bold magenta")
        head.append(clock.rjust(max(width - head.cell_len, len(clock) + 3)), "dim")
        percent = "" if beyond else self._text(fmt.percent(share).rjust(7), "bold").plain
        room = max(width - len(percent), 0)
        filled = min(int(room * (share or 0.0)), room)
        full, rest = ("━", "─") if self._fancy else ("#", "-")
        return [
            head,
            Text.assemble((full * filled, colour), (rest * (room - filled), "bright_black"), percent),
        ]

    def _charts(self, width: int) -> list[Text]:
        levels = BLOCKS if self._fancy else ASCII
        room = width - _LABEL
        lines = []
        most = max([float(self._asked), *self._held.values])
        for name, values, top, scale, colour in (
            (self._what, self._held.values, most, f"of {fmt.count(most)}", "green"),
            ("rate", self._rate.values, None, f"max {fmt.rate(max(self._rate.values, default=0.0))}", "cyan"),
        ):
            upper, lower = sparkline(values, room, top=top, levels=levels)
            lines.append(Text.assemble((name.ljust(_LABEL), "bold"), (upper, colour)))
            lines.append(Text.assemble((scale.ljust(_LABEL), "dim"), (lower, colour)))
        return lines

    def _figures(self, sample: Sample, width: int) -> list[Text]:
        p50, p99 = fmt.ms(sample.handshake_p50_ms), fmt.ms(sample.handshake_p99_ms)
        rates = [(fmt.rate(sample.rate_per_s), "now"), (fmt.rate(self._rates.mean_per_s), "mean")]
        rows: list[_Row] = [
            ("rate", [*rates, (fmt.count(sample.in_flight), "in flight")], ""),
            ("handshake", [(p50, "p50"), (p99, "p99")], ""),
            ("memory", [(fmt.nbytes(sample.memory_available_bytes), "available")], ""),
        ]
        if self._rates.server_seen is not None:
            rows.append(("server", self._server(sample.server), ""))
        if sample.kernel is not None:
            rows += _kernel(sample.kernel)
        rows += [_causes("failed", sample.failures), _causes("dropped", sample.drops)]
        return [line for row in rows for line in self._row(row, width)]

    def _server(self, server: ServerUse | None) -> list[tuple[str, str]]:
        if server is None:
            return [("gone", "or not readable")]
        partly = "≥" if not server.complete else ""
        cpu = self._rates.server_cpu
        return [
            (partly + fmt.nbytes(server.rss_bytes), "RSS"),
            (f"{cpu * 100:.0f}%" if cpu is not None else fmt.DASH, "CPU"),
            (fmt.count(server.fds), "fds"),
            (fmt.count(len(server.pids)), "process" if len(server.pids) == 1 else "processes"),
        ]

    def _row(self, row: _Row, width: int) -> list[Text]:
        """One line, or as many as the cells need: figures stay in columns, so that they do not dance."""
        name, cells, style = row
        lines = [Text.assemble((name.ljust(_LABEL), "bold"))]
        for value, label in cells:
            cell = Text.assemble(self._text(value, style), self._text(f" {label}", style or "dim"))
            if lines[-1].cell_len > _LABEL and lines[-1].cell_len + cell.cell_len > width:
                lines.append(Text(" " * _LABEL))
            cell.pad_right(_CELL - cell.cell_len % _CELL)
            lines[-1].append_text(cell)
        return lines


def _kernel(kernel: KernelSample) -> list[_Row]:
    rows: list[_Row] = []
    for queue in kernel.queues[:2]:
        full = f"{fmt.count(queue.depth_max)} of {fmt.count(queue.capacity_each)}"
        cells = [(full, "deepest"), (fmt.count(queue.overflows), "overflows")]
        if queue.wait_p99_ms is not None:
            cells.append((fmt.ms_between(queue.wait_p99_least_ms, queue.wait_p99_ms), "p99 wait"))
        rows.append(("accept queue", cells, "red" if queue.overflows else ""))
    cells = [(fmt.nbytes(kernel.slab_bytes), "slab"), (fmt.percent(kernel.softirq), "softirq")]
    rows.append(("kernel", cells, ""))
    return rows


def _causes(name: str, by_cause: dict[str, int]) -> _Row:
    total = sum(by_cause.values())
    if not total:
        return name, [("0", "")], ""
    found = sorted(((cause, number) for cause, number in by_cause.items() if number), key=lambda it: -it[1])
    cells = [(fmt.count(number), cause) for cause, number in found]
    return name, cells if len(cells) == 1 else [(fmt.count(total), "in all"), *cells], "red"
