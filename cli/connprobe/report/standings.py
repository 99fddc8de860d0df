"""The tables of a comparison, one per workload, in words that the terminal, Markdown and HTML share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from connprobe.model.bout import Bout, CompareRecord, Figure, Spread, Standing
from connprobe.model.suite import Workload
from connprobe.report import format as fmt
from connprobe.report.compared import ratio
from connprobe.report.layout import Page
from connprobe.report.markdown import escaped, markdown_table
from connprobe.report.rows import Rows
from connprobe.report.verdicts import render_verdicts

TIMES = "\u00d7"  # MULTIPLICATION SIGN
NOTE = (
    f"Medians over the rounds, in brackets the least and the greatest. {TIMES}: of the control of the same "
    "round, likewise."
)
NOTHING = Figure(values=None, ratios=None)  # a compare.json of another version may lack one
Show = Callable[[float | None], str]


class _Column(NamedTuple):
    key: str
    title: str
    show: Show
    ratio: bool = True  # a column beside it has its ratio to the control


_SPEED = (
    _Column("handshake_mean_ms", "handshake", fmt.ms),
    _Column("message_mean_ms", "latency", fmt.ms),
    _Column("total_s", "total", fmt.duration),
)
_COST = (
    _Column("start_rss_bytes", "RSS, start", fmt.nbytes, ratio=False),
    _Column("peak_rss_bytes", "RSS, peak", fmt.nbytes),
    _Column("end_pss_bytes", "PSS, end", fmt.nbytes, ratio=False),
    _Column("cpu_s", "CPU", fmt.duration),
    _Column("client_cpu_s", "client's CPU", fmt.duration, ratio=False),
    _Column("overflows", "overflows", fmt.count, ratio=False),
)


class Table(NamedTuple):
    """Of one workload: how fast each contestant was, and what that took."""

    title: str
    about: str
    speed: Rows
    cost: Rows


def sentence(record: CompareRecord) -> str:
    """What came out, on one line."""
    done = sum(it.outcome == "done" for it in record.bouts)
    contestants = len({(it.workload, it.contestant) for it in record.standings})
    workloads = len({it.workload for it in record.standings})
    said = (
        f"{record.request.suite.title}: {fmt.count(done)} of {fmt.count(record.turns)} runs done; "
        f"{contestants} contestants in {workloads} workload{'' if workloads == 1 else 's'}."
    )
    return f"Interrupted. {said}" if record.outcome == "interrupted" else said


def tables(record: CompareRecord) -> Iterator[Table]:
    """One for each workload that has any figure."""
    for workload in record.request.suite.workloads:
        mine = [it for it in record.standings if it.workload == workload.name]
        if mine:
            yield Table(workload.name, described(workload), rows_of(mine, _SPEED), rows_of(mine, _COST))


def described(workload: Workload) -> str:
    kind = {"ws": "WebSocket", "http": "HTTP", "tcp": "TCP"}[workload.protocol]
    over = f"{kind} over TLS" if workload.tls else kind
    size = "" if workload.protocol == "http" else f" of {workload.message or '32B'}"
    messages = f"{fmt.count(workload.messages)} message{'' if workload.messages == 1 else 's'}{size}"
    at_once = fmt.count(workload.concurrency)
    return f"{over}, {messages} on each connection, {at_once} connections at a time"


def rows_of(standings: Sequence[Standing], columns: Sequence[_Column] = _SPEED) -> Rows:
    """A row for each size and contestant; the last column says how many runs are not in the figures."""
    header = ["connections, contestant"]
    for it in columns:
        header += [it.title, TIMES] if it.ratio else [it.title]
    rows = []
    for standing in standings:
        cells = [f"{fmt.count(standing.size)} {standing.contestant}"]
        for column in columns:
            figure = standing.figures.get(column.key, NOTHING)
            cells.append(spread(figure.values, column.show))
            if column.ratio:
                control = standing.control and figure.values is not None
                cells.append("1" if control else spread(figure.ratios, ratio))
        left_out = standing.bouts - standing.done
        rows.append((*cells, f"{left_out} of {standing.bouts} runs left out" if left_out else ""))
    controls = frozenset(index for index, it in enumerate(standings) if it.control)
    return Rows((*header, ""), rows, controls)


def spread(value: Spread | None, show: Show) -> str:
    """The median, and in brackets the least and the greatest where they are others: "41.2 (40.1-43) ms"."""
    if value is None:
        return fmt.DASH
    middle, low, high = show(value.median), show(value.low), show(value.high)
    if low == high == middle:
        return middle
    parts = [text.partition(" ") for text in (middle, low, high)]
    units = {unit for _, _, unit in parts}
    if len(units) == 1 and "m " not in middle:
        (number, _, unit), (least, _, _), (most, _, _) = parts
        return f"{number} ({least}{fmt.DASH}{most}) {unit}".rstrip()
    return f"{middle} ({low}{fmt.DASH}{high})"


def not_done(record: CompareRecord) -> list[tuple[str, str, str]]:
    """(which run, its outcome, why) of those that are in no figure."""
    return [(named(it), it.outcome, it.said or "") for it in record.bouts if it.outcome != "done"]


def named(bout: Bout) -> str:
    return f"{bout.workload} {fmt.count(bout.size)} {bout.contestant}, round {bout.round}"


def programs(record: CompareRecord) -> Mapping[str, str]:
    """What took part, and why what did not did not."""
    return {**record.versions, **{name: f"skipped: {why}" for name, why in record.skipped.items()}}


def line(bout: Bout, number: int, of: int) -> str:
    """One run as it ended, for whoever waits."""
    what = f"[{number}/{of}] {named(bout)}: "
    if bout.outcome != "done":
        return f"{what}{bout.outcome.upper()}: {bout.said}"
    handshake = bout.handshake_ms.mean if bout.handshake_ms else None
    message = bout.message_ms.mean if bout.message_ms else None
    return f"{what}{fmt.duration(bout.total_s)}, handshake {fmt.ms(handshake)}, latency {fmt.ms(message)}"


def render_compare(
    record: CompareRecord, console: Console, *, results: str | None = None, report: str | None = None
) -> None:
    """Prints `record` on `console` (stdout)."""
    page = Page(console)
    style = {"done": "bold green", "interrupted": "bold yellow"}.get(record.outcome, "bold red")
    page.line((sentence(record), style))
    for it in tables(record):
        page.heading(it.title)
        page.paragraph(it.about, indent=2)
        for rows in (it.speed, it.cost):
            page.console.print()
            page.figures(rows)
    page.console.print()
    page.paragraph(NOTE, "dim", indent=2)
    if missed := not_done(record):
        page.heading("Runs that are in no figure")
        page.table(missed, left=2)
    if found := programs(record):
        page.heading("Programs")
        page.table(list(found.items()), left=1)
    render_verdicts(record.verdicts, page)
    if results:
        page.console.print()
        page.line("results  ", results)
    if report:
        page.line("report   ", report)


def markdown(record: CompareRecord) -> str:
    """The same as GitHub-flavoured Markdown."""
    lines = [escaped(sentence(record)), "", escaped(NOTE)]
    for it in tables(record):
        lines += ["", f"### {escaped(it.title)}", "", escaped(it.about)]
        for table in (it.speed, it.cost):
            end = None if table.spoken else -1
            rows = [row[:end] for row in table.rows]
            lines += ["", *markdown_table(table.header[:end], rows, left=1)]
    if missed := not_done(record):
        lines += ["", "Runs that are in no figure:", ""]
        lines += markdown_table(("run", "outcome", "why"), missed, left=3)
    if found := programs(record):
        lines += ["", *(f"- {escaped(name)}: {escaped(said)}" for name, said in found.items())]
    lines += ["", *(f"- {verdict.level}: {escaped(verdict.text)}" for verdict in record.verdicts)]
    return "\n".join(lines).rstrip() + "\n"
