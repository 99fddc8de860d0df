"""The report of one run of `pipeline`: the tables of the terminal, and memory over what is pending."""

from connprobe.model import PipelineRecord
from connprobe.report import format as fmt
from connprobe.report.html import sections as parts
from connprobe.report.html.figures import Figure
from connprobe.report.html.limitcharts import memory_chart
from connprobe.report.html.markup import Html, code, join, tag
from connprobe.report.html.page import chart, no_script, page
from connprobe.report.pipeline import cost_rows, end_rows, step_rows, verified_rows
from connprobe.report.rows import cost, metric_name

_COSTS = ("heap_bytes", "rss_bytes")
_NOTE = "Dots: what was read after each step (open: not settled). Line and 95 % band: the fit."


def render_pipeline_html(record: PipelineRecord) -> str:
    """report.html; the same record gives the same text."""
    memory = memory_chart(record.readings, record.growth, "pending requests")
    figures: dict[str, Figure] = {} if memory is None else {"memory": memory}
    costs = parts.rows_table("What one more pending request costs", cost_rows(record.growth), title=False)
    body = [
        _header(record),
        parts.section("What was seen", parts.verdicts(record.verdicts)),
        parts.section("Where it ends", _ends(record)),
        parts.section(
            "What one more pending request costs",
            chart("memory", "Memory over pending requests", _NOTE) if figures else Html(""),
            costs,
        ),
        parts.section("Steps", parts.rows_table("Steps", step_rows(record), title=False)),
        parts.section("Not known", parts.unknown(record.unknown)),
        parts.section(
            "Machine and settings",
            parts.settings("Machine", record.host),
            parts.settings("Asked for", record.request),
            parts.settings("Answers", record.answers),
        ),
        parts.section("Raw numbers", parts.raw("pipeline.json", record)),
    ]
    return page(f"connprobe pipeline {record.target}", join(body), figures)


def _header(record: PipelineRecord) -> Html:
    about = f"connprobe pipeline, {record.started_at}, outcome: {record.outcome}; {record.target}"
    tiles = [
        (fmt.count(record.pending_most), f"pending at most, of {fmt.count(record.requested)}"),
        (f"{record.request_bytes:,} B", "a request as it is sent"),
    ]
    growth = {each.metric: each for each in record.growth}
    for metric in _COSTS:
        if (grown := growth.get(metric)) is not None:
            what = f"{metric_name(metric)} a pending request"
            tiles.append((cost(grown.per_connection, grown.unit), what))
    if record.requests_per_s is not None:
        tiles.append((fmt.rate(record.requests_per_s), "read by the server"))
    if record.peak_rss_bytes is not None:
        tiles.append((fmt.nbytes(record.peak_rss_bytes), "RSS of the server at most"))
    said = tag("h1", record.headline)
    return tag("header", tag("p", about, class_="quiet"), said, parts.tiles(tiles), no_script())


def _ends(record: PipelineRecord) -> Html:
    fixes = [tag("li", code(limit.fix)) for limit in record.limits if limit.fix]
    made = [
        parts.rows_table("Where it ends", end_rows(record), title=False),
        *([tag("h3", "What lifts it"), tag("ul", *fixes)] if fixes else []),
    ]
    if record.verified is not None:
        made.append(parts.rows_table("Predicted and found", verified_rows(record)))
    return join(made)
