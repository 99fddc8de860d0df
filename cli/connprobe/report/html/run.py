"""The report of one run."""

from collections.abc import Callable, Iterable

from connprobe.model import RunRecord, Sample
from connprobe.report import format as fmt
from connprobe.report.html import limitsections as limited
from connprobe.report.html import sections as parts
from connprobe.report.html.figures import Figure
from connprobe.report.html.limitcharts import growth_chart, held_chart, limit_chart
from connprobe.report.html.loadsections import load
from connprobe.report.html.markup import Html, join, tag
from connprobe.report.html.page import chart, no_script, page
from connprobe.report.html.timecharts import time_charts
from connprobe.report.limited import no_limit
from connprobe.report.summary import headline
from connprobe.report.timeline import Timeline, read_timeline

_PLAN_WITHOUT = frozenset({"shards"})  # thousands of lines; they are in the raw numbers


def render_html(record: RunRecord, samples: Iterable[Sample | None]) -> str:
    """report.html of a run of any command; the same input gives the same text.

    samples: read once, in bounded memory; None stands for a line that could not be read.
    """
    line = read_timeline(samples)
    figures: dict[str, Figure] = {}

    def add(name: str, title: str, figure: Figure | None, note: str = "") -> Html:
        if figure is None:
            return Html("")
        figures[name] = figure
        return chart(name, title, note)

    said = record.headline or (no_limit(record) if record.command == "limit" else headline(record))
    body = [
        _header(record, said),
        parts.section("What was seen", parts.verdicts(record.verdicts)),
        parts.section("Load", load(record)),
        parts.section(
            "Limits",
            add("limits", "Where each resource ends", limit_chart(record), _LIMITS_NOTE),
            limited.limits_table(record.limits, record.left_out),
            limited.verified(record),
        ),
        parts.section(
            "What one connection costs",
            _growth(record, line, add),
            limited.costs(record),
        ),
        parts.section("Stages", limited.stages(record)),
        parts.section("Trials", limited.trials(record)),
        _over_time(line, record, figures),
        parts.section(
            "Failed and dropped",
            parts.causes(record.command, record.failures, record.failure_details, established=False),
            parts.causes(record.command, record.drops, record.drop_details, established=True),
        ),
        parts.section("Accept queue", parts.queues_table(record)),
        parts.section("Kernel memory of one connection", parts.slabs_table(record)),
        parts.section("Not known", parts.unknown(record.unknown)),
        parts.section(
            "Machine and settings",
            parts.settings("Machine", record.host),
            parts.settings("Asked for", record.request),
            parts.settings("Asked of the server", record.limit_request),
            parts.settings("Asked of each connection", record.load_request),
            parts.settings("Plan", record.plan, without=_PLAN_WITHOUT),
            parts.observer(record),
        ),
        parts.section("Raw numbers", parts.raw("run.json", record)),
    ]
    return page(f"connprobe {record.command} {record.target}", join(body), figures)


_LIMITS_NOTE = (
    "The first one binds; the client's own are lighter. Whiskers: 95 % interval. Hatched: approximate. "
    "What ends more than 10,000 times later, and limits of traffic, are in the tables alone."
)


def _header(record: RunRecord, said: str) -> Html:
    about = f"connprobe {record.command}, {record.started_at}, outcome: {record.outcome}; {record.target}"
    held = [tag("p", headline(record))] if said != headline(record) else []
    return tag("header", tag("p", about, class_="quiet"), tag("h1", said), *held, _tiles(record), no_script())


def _tiles(record: RunRecord) -> Html:
    took, server, kernel = record.handshake_ms, record.server, record.kernel
    of = "established, ramp of" if record.load is None else "done, in"
    tiles: list[tuple[str, str]] = [
        _reached(record),
        (f"{fmt.count(record.failed)} / {fmt.count(record.dropped)}", "failed / dropped"),
        (fmt.rate(record.connections_per_s), f"{of} {fmt.duration(record.ramp_s)}"),
    ]
    if took is not None:
        tiles.append((fmt.ms(took.p50), f"handshake, median; p99 {fmt.ms(took.p99)}"))
    if server is not None and server.bytes_per_connection is not None:
        tiles.append((fmt.nbytes(server.bytes_per_connection), "server RSS a connection"))
    if server is not None and server.pss_bytes_per_connection is not None:
        tiles.append((fmt.nbytes(server.pss_bytes_per_connection), "server PSS a connection"))
    if kernel is not None:
        ends = " (both ends)" if kernel.ends == 2 else ""
        tiles.append((fmt.nbytes(kernel.bytes_per_connection), f"kernel memory a connection{ends}"))
    if record.client.pss_bytes_per_connection is not None:
        tiles.append((fmt.nbytes(record.client.pss_bytes_per_connection), "client PSS a connection"))
    return parts.tiles(tiles)


def _reached(record: RunRecord) -> tuple[str, str]:
    asked = fmt.count(record.requested)
    if record.load is not None:
        return fmt.count(record.load.visited), f"done of {asked}"
    return fmt.count(record.held), f"held of {asked}"


def _growth(record: RunRecord, line: Timeline, add: Callable[..., Html]) -> Html:
    if record.trials:
        note = "Dots: settled readings of all trials (open: not settled). "
        note += "Line and 95 % band: the last trial, dashed beyond its fit."
        return add("growth", "Memory over connections", growth_chart(record.trials), note)
    note = "Dots: samples of the run. The line is descriptive: a hold does not wait for memory to settle."
    return add("growth", "Server memory over connections", held_chart(line), note)


def _over_time(line: Timeline, record: RunRecord, figures: dict[str, Figure]) -> Html:
    made = time_charts(line, record.host.cpus)
    figures.update({name: figure for name, (_, figure) in made.items()})
    charts = [chart(name, title) for name, (title, _) in made.items()]
    notes = []
    if line.unreadable:
        notes.append(
            f"{fmt.count(line.unreadable)} lines of samples.jsonl could not be read and are left out."
        )
    if not made:
        notes.append(f"{fmt.count(line.samples)} samples: too few for a chart.")
    if line.queues_left_out:
        notes.append("There were more listening addresses than are drawn; run.json has them all.")
    said = tag("p", " ".join(notes), class_="quiet") if notes else Html("")
    return parts.section("Over time", said, tag("div", *charts, class_="charts") if charts else Html(""))
