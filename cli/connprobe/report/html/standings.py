"""A comparison of contestants as one HTML file: the tables of the terminal, and bars beside them."""

from collections.abc import Sequence
from typing import Any

from connprobe.model.bout import CompareRecord, Standing
from connprobe.report import format as fmt
from connprobe.report.html.figures import COLOURS, Figure, axis, figure, label
from connprobe.report.html.markup import Html, join, pairs, table, tag
from connprobe.report.html.page import chart, no_script, page
from connprobe.report.html.sections import section, settings, verdicts
from connprobe.report.rows import Rows
from connprobe.report.standings import NOTE, NOTHING, not_done, programs, sentence, tables

_CHARTS = (
    ("total_s", "Total time", "s"),
    ("handshake_mean_ms", "Mean handshake", "ms"),
    ("message_mean_ms", "Mean latency of a message", "ms"),
    ("peak_rss_bytes", "Memory at its peak", "B"),
)
_BAR, _AROUND = 16, 120  # pixels


def render_compare_html(record: CompareRecord) -> str:
    figures: dict[str, Figure] = {}
    body = [
        tag(
            "header",
            tag("p", "connprobe compare", class_="quiet"),
            tag("h1", record.request.suite.title),
            tag("p", sentence(record)),
            no_script(),
        ),
        section("What was seen", verdicts(record.verdicts)),
    ]
    for number, (title, about, speed, cost) in enumerate(tables(record)):
        mine = [it for it in record.standings if it.workload == title]
        charts = []
        for key, called, unit in _CHARTS:
            made = _bars(mine, key, called, unit)
            if made is not None:
                name = f"w{number}-{key}"
                figures[name] = made
                charts.append(chart(name, f"{called}, {title}"))
        body.append(
            section(
                f"Workload: {title}",
                tag("p", about),
                _table(speed, f"{title}: how fast"),
                _table(cost, f"{title}: what it took"),
                tag("p", NOTE, class_="quiet"),
                tag("div", *charts, class_="charts") if charts else Html(""),
            )
        )
    missed = not_done(record)
    body += [
        section(
            "Runs that are in no figure",
            table(("run", "outcome", "why"), missed, left=2, label="Not done") if missed else Html(""),
        ),
        section("Programs", pairs(programs(record).items(), label="Programs")),
        section("Machine and settings", settings("Machine", record.host), _runs(record)),
    ]
    return page(f"connprobe compare: {record.request.suite.title}", join(body), figures)


def _table(rows: Rows, label: str) -> Html:
    end = None if rows.spoken else -1
    return table(rows.header[:end], [row[:end] for row in rows.rows], right=1 + (end or 0), label=label)


def _bars(standings: Sequence[Standing], key: str, called: str, unit: str) -> Figure | None:
    """Grouped by size, a colour for each contestant, with least to greatest as whiskers."""
    sizes = sorted({it.size for it in standings})
    names = list(dict.fromkeys(it.contestant for it in standings))
    by_place = {(it.size, it.contestant): it.figures.get(key, NOTHING).values for it in standings}
    if not any(by_place.values()):
        return None
    data: list[dict[str, Any]] = []
    for index, name in enumerate(names):
        found = [by_place.get((size, name)) for size in sizes]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(name),
                "y": [fmt.count(size) for size in sizes],
                "x": [it.median if it else None for it in found],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [it.high - it.median if it else None for it in found],
                    "arrayminus": [it.median - it.low if it else None for it in found],
                    "color": "@ink",
                    "visible": any(it.count > 1 for it in found if it),
                    "thickness": 1,
                },
                "marker": {"color": COLOURS[index % len(COLOURS)]},
                "hovertemplate": f"%{{x:.4~s}}{unit}",
            }
        )
    return figure(
        data,
        axis(called, unit),
        {"title": {"text": "connections"}, "type": "category", "automargin": True, "autorange": "reversed"},
        hovermode="closest",
        showlegend=True,
        height=_AROUND + _BAR * len(names) * len(sizes),
    )


def _runs(record: CompareRecord) -> Html:
    """Which file holds all of one run."""
    rows = [
        (it.workload, fmt.count(it.size), it.contestant, str(it.round), it.outcome, it.run or fmt.DASH)
        for it in record.bouts
    ]
    header = ("workload", "connections", "contestant", "round", "outcome", "directory")
    listed = table(header, rows, left=1, right=2, label="Runs")
    return join([tag("h3", "Every run"), listed]) if rows else Html("")
