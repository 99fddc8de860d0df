"""Several runs side by side, as one HTML file."""

from collections.abc import Callable, Sequence
from typing import Any

from connprobe.model.comparison import Comparison
from connprobe.report import format as fmt
from connprobe.report.compared import figure_rows, shown_values
from connprobe.report.html.figures import COLOURS, DASHES, Figure, axis, curve, figure, label
from connprobe.report.html.limitcharts import BESIDE_POINT
from connprobe.report.html.markup import Html, join, table, tag, text
from connprobe.report.html.page import chart, no_script, page
from connprobe.report.html.sections import section
from connprobe.report.timeline import Timeline

_VALUE_LENGTH = 300
_RESOURCES_SHOWN = 12


def render_comparison_html(comparison: Comparison, lines: Sequence[Timeline]) -> str:
    """`lines` belong to the runs of the comparison, in its order."""
    labels = [run.label for run in comparison.runs]
    made: dict[str, tuple[str, Figure | None]] = {
        "limits": ("Where each resource ends", _limits(comparison, labels)),
        "rss": ("Server memory over connections", _over_connections(lines, labels)),
        "held": ("Connections held", _over_time(lines, labels, "held", "connections", "")),
        "rate": ("Connections established a second", _over_time(lines, labels, "rate", "a second", "/s")),
        "time": ("Server memory over time", _over_time(lines, labels, "rss", "server RSS", "B")),
        "cpu": ("CPUs the server kept busy", _over_time(lines, labels, "cpu", "CPUs", "")),
    }
    figures = {name: figure for name, (_, figure) in made.items() if figure is not None}
    charts = [chart(name, made[name][0]) for name in figures]
    header, rows = figure_rows(comparison)
    runs = [
        (
            tag("b", run.label),
            run.command,
            run.started_at,
            join([text(run.headline), tag("br"), _path(run.path)]),
        )
        for run in comparison.runs
    ]
    different = [
        (it.part, it.name, *(text(value, _VALUE_LENGTH) for value in shown_values(it)))
        for it in comparison.differences
    ]
    body = [
        tag(
            "header",
            tag("p", "connprobe report", class_="quiet"),
            tag("h1", f"{len(labels)} runs side by side"),
            table(("", "command", "started", "what came out"), runs, left=3, label="Runs"),
            *(tag("p", f"note: {note}") for note in comparison.notes),
            no_script(),
        ),
        section("Figures, and their ratio to a", table(header, rows, left=2, right=0, label="Figures")),
        section("Charts", tag("div", *charts, class_="charts") if charts else Html("")),
        section(
            "What was set otherwise",
            table(("part", "setting", *labels), different, left=2 + len(labels), right=0, label="Differences")
            if different
            else tag("p", "Nothing: the same machine, settings and plan."),
        ),
    ]
    return page("connprobe: runs side by side", join(body), figures)


def _path(path: str) -> Html:
    return tag("small", path)


def _lines(
    lines: Sequence[Timeline], labels: Sequence[str], get: Callable[[Timeline], Any], unit: str, **more: Any
) -> list[dict[str, Any]]:
    data = []
    for index, (line, name) in enumerate(zip(lines, labels, strict=True)):
        x, y = get(line)
        if any(value is not None for value in y):
            colour = COLOURS[index % len(COLOURS)]
            style = {"dash": DASHES[index % len(DASHES)]}
            data.append(
                curve(x, y, name, colour, unit, line=style, **more)
                | ({"marker": {"color": colour, "size": 6}} if more else {})
            )
    return data


def _over_time(
    lines: Sequence[Timeline], labels: Sequence[str], name: str, title: str, unit: str
) -> Figure | None:
    data = _lines(lines, labels, lambda it: it.thinned.points(name), unit)
    x = axis("time since the run began", "s", tickformat="", hoverformat=".1f")
    return figure(data, x, axis(title, unit), showlegend=True) if data else None


def _over_connections(lines: Sequence[Timeline], labels: Sequence[str]) -> Figure | None:
    data = _lines(lines, labels, lambda it: it.memory.points("rss"), "B", mode="markers")
    if not data:
        return None
    return figure(
        data, axis("connections held"), axis("server RSS", "B"), hovermode="closest", showlegend=True
    )


def _limits(comparison: Comparison, labels: Sequence[str]) -> Figure | None:
    """A group of bars for each resource, on a log axis."""
    shown = {(it.group, it.name) for it in comparison.figures if it.group == "limits"}
    shown = shown - {("limits", "the first")} | {("verified", "broke at")}
    found = [it for it in comparison.figures if (it.group, it.name) in shown]
    least = min((value for it in found for value in it.values if value), default=None)
    if least is None:
        return None
    near = [it for it in found if min(value or 0 for value in it.values) <= least * BESIDE_POINT]
    data = []
    for index, name in enumerate(labels):
        values = [it.values[index] for it in near[:_RESOURCES_SHOWN]]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [label(it.name, 28) for it in near[:_RESOURCES_SHOWN]],
                "x": values,
                "text": [fmt.many(value) for value in values],
                "textposition": "auto",
                "marker": {"color": COLOURS[index % len(COLOURS)]},
                "hovertemplate": "%{x:,} connections",
            }
        )
    return figure(
        data,
        axis("connections (log scale)", type="log", rangemode="normal"),
        {"autorange": "reversed", "automargin": True, "type": "category", "ticklabelstandoff": 6},
        hovermode="closest",
        showlegend=True,
        height=120 + (22 * len(labels) + 16) * len(near[:_RESOURCES_SHOWN]),
    )
