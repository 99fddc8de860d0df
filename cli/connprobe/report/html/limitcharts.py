"""Where a server stops, and how its memory grows on the way there."""

from collections.abc import Sequence
from math import log10
from typing import Any

from connprobe.model import Growth, Limit, Reading, RunRecord, Trial
from connprobe.plan.limits.growth import band_at, value_at
from connprobe.plan.limits.headline import rounded
from connprobe.plan.limits.resources import is_client
from connprobe.report import format as fmt
from connprobe.report.html.figures import COLOURS, Figure, axis, band, curve, figure, label, upright
from connprobe.report.limitrows import names, shown
from connprobe.report.rows import cost, metric_name
from connprobe.report.timeline import Timeline

LIMITS_SHOWN = 20
BESIDE_POINT = 10_000  # times the first limit: a bar that long would press the others flat
WHISKER_SHOWN = 10  # times the longest bar
_DRAWN_AT_FIRST = ("heap_bytes", "rss_bytes", "cgroup_bytes", "kernel_bytes")
_METRICS = (
    "rss_bytes",
    "heap_bytes",
    "kernel_bytes",
    "cgroup_bytes",
    "pss_bytes",
    "uss_bytes",
    "memory_bytes",
)
_STEPS = 40  # of a curved band


def limit_chart(record: RunRecord) -> Figure | None:
    """Bars on a log axis, the binding one on top, each with its 95 % interval."""
    parts = shown(record.limits)
    if not parts.held:
        return None
    most = max(1, parts.held[0].connections) * BESIDE_POINT
    ours = [*parts.held, *parts.folded][:LIMITS_SHOWN]
    limits = [limit for limit in ours if limit.connections <= most]
    called = limit_names(limits)
    values = [max(1, limit.connections) for limit in limits]
    highs = [max(value, limit.high) for value, limit in zip(values, limits, strict=True)]
    # An interval that has no end runs out of the chart, which ends soon after the last bar.
    edges = [min(high, max(values) * WHISKER_SHOWN) for high in highs]
    colours = ["@vermilion", *("@sky" if is_client(limit) else "@blue" for limit in limits[1:])]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": called,
        "x": values,
        "marker": {
            "color": colours,
            "pattern": {"shape": ["/" if limit.approximate else "" for limit in limits], "fgcolor": "@paper"},
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - value for high, value in zip(highs, values, strict=True)],
            "arrayminus": [max(0, v - max(1, it.low)) for v, it in zip(values, limits, strict=True)],
            "color": "@ink",
            "thickness": 1.5,
            "width": 5,
        },
        "customdata": [[it.low, it.high, label(it.scope, 60)] for it in limits],
        "hovertemplate": "%{x:,} connections<br>95 %: %{customdata[0]:,} to %{customdata[1]:,}"
        "<br>%{customdata[2]}<extra></extra>",
    }
    figures = {  # beyond the interval: text at the end of a bar would lie under its whisker
        "type": "scatter",
        "mode": "text",
        "x": edges,
        "y": called,
        "text": [f"  {fmt.many(rounded(limit)[0])}" for limit in limits],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    marks = [upright(max(1, most_held(record)), "held", "@green")]
    if record.verified is not None and record.verified.side == "server" and record.verified.connections > 0:
        marks.append(upright(record.verified.connections, "broke", "@purple", anchor="left"))
    ends = [*values, *(shape["x0"] for shape, _ in marks if shape["x0"] > 1)]
    low, high = log10(min(ends)) - 0.4, log10(max(edges + ends))
    room = 0.3 * (high - low) + 0.15  # for the figure beyond the longest bar, on a phone too
    x = axis("connections (log scale)", type="log", rangemode="normal", range=[low, high + room])
    y = {"autorange": "reversed", "automargin": True, "type": "category", "ticklabelstandoff": 6}
    return figure(
        [bars, figures],
        x,
        y,
        showlegend=False,
        hovermode="closest",
        bargap=0.45,
        height=110 + 38 * len(limits),
        shapes=[shape for shape, _ in marks if shape["x0"] > 1],
        annotations=[
            text | {"x": log10(text["x"])} for shape, text in marks if shape["x0"] > 1
        ],  # annotations, unlike shapes, take the logarithm on a log axis
    )


def limit_names(limits: Sequence[Limit]) -> list[str]:
    """What each bar is called: short, and each its own category."""
    found: list[str] = []
    for name in names(limits):
        short = label(name.removeprefix("the "), 28)
        while short in found:
            short += " "
        found.append(short)
    return found


def most_held(record: RunRecord) -> int:
    return max([record.held, *(trial.held for trial in record.trials)])


def growth_chart(trials: Sequence[Trial]) -> Figure | None:
    """Each memory metric over connections: readings of all trials, line and band of the last one."""
    readings = [reading for trial in trials for reading in trial.readings]
    return memory_chart(readings, trials[-1].growth if trials else (), "connections")


def memory_chart(readings: Sequence[Reading], growths: Sequence[Growth], what: str) -> Figure | None:
    """what: is counted: "connections", "pending requests"."""
    data: list[dict[str, Any]] = []
    reach = max((reading.connections for reading in readings), default=0)
    fitted = {growth.metric: growth for growth in growths if growth.unit == "bytes"}
    found = {name for reading in readings for name in reading.use}
    metrics = [name for name in _METRICS if name in found or name in fitted]
    drawn = [name for name in metrics if name in _DRAWN_AT_FIRST] or metrics[:1]
    for index, name in enumerate(metrics):
        colour = COLOURS[index % len(COLOURS)]
        more: dict[str, Any] = {"legendgroup": name}
        if name not in drawn:
            more["visible"] = "legendonly"
        if (growth := fitted.get(name)) is not None:
            data += [it | more for it in _fitted(growth, reach, name, colour)]
        for settled in (True, False):
            points = [it for it in readings if it.settled == settled and it.stage != "drain"]
            data += [it | more for it in _readings(points, name, colour, what, named=growth is None)]
    if not data:
        return None
    return figure(data, axis(what), axis("memory", "B"), hovermode="closest", showlegend=True, height=380)


def _readings(
    readings: Sequence[Reading], metric: str, colour: str, what: str, *, named: bool
) -> list[dict[str, Any]]:
    """All of them settled, or none."""
    points = [(reading.connections, reading.use[metric]) for reading in readings if metric in reading.use]
    if not points:
        return []
    settled = readings[0].settled
    marker = {"color": colour, "size": 8, "symbol": "circle" if settled else "circle-open"}
    more = {"mode": "markers", "marker": marker, "showlegend": named and settled}
    x, y = [point[0] for point in points], [point[1] for point in points]
    kind = "" if settled else ", not settled"
    points_shown = curve(x, y, metric_name(metric) + kind, colour, "B", **more)
    return [points_shown | {"hovertemplate": f"%{{x:,}} {what}: %{{y:.4~s}}B<extra></extra>"}]


def _fitted(growth: Growth, reach: int, metric: str, colour: str) -> list[dict[str, Any]]:
    """The line and its band; dashed from the last reading of the fit to `reach`, where more were held."""
    last = growth.last or 1
    inside = [last * step / _STEPS for step in range(_STEPS + 1)]
    beyond = [last + (reach - last) * step / _STEPS for step in range(_STEPS + 1)] if reach > last else []
    xs = inside + beyond
    low, high = zip(*(band_at(growth, x) for x in xs), strict=True)
    slope = f"{metric_name(metric)}: {cost(growth.per_connection, 'bytes')} each"
    more: dict[str, Any] = {"hoverinfo": "skip", "hovertemplate": None}
    data = [
        band(xs, list(low), list(high), "95 %", f"{colour}-band") | {"showlegend": False},
        curve(inside, [value_at(growth, x) for x in inside], slope, colour, "B", **more),
    ]
    if beyond:
        ys = [value_at(growth, x) for x in beyond]
        dashed = curve(beyond, ys, f"{slope}, beyond", colour, "B", line={"dash": "dash"}, **more)
        data.append(dashed | {"showlegend": False})
    return data


def held_chart(line: Timeline) -> Figure | None:
    """For `hold`: the server's RSS over the connections it held, from the samples, and a line."""
    x, y = line.memory.points("rss")
    if len(x) < 2:
        return None
    data: list[dict[str, Any]] = []
    fit = line.fit
    if fit.known:
        ends = [fit.least_x, fit.greatest_x]
        ys = [fit.at(end) for end in ends]
        low, high = [value - fit.spread for value in ys], [value + fit.spread for value in ys]
        data.append(band(ends, low, high, "holds 95 % of the samples", "@blue-band"))
        name = f"least squares: {fmt.nbytes(fit.slope)} a connection"
        data.append(curve(ends, ys, name, "@blue", "B", hoverinfo="skip", hovertemplate=None))
    marker = {"color": "@orange", "size": 6, "opacity": 0.8}
    data.append(
        curve(x, y, "samples", "@orange", "B", mode="markers", marker=marker)
        | {"hovertemplate": "%{x:,} connections: %{y:.4~s}B<extra></extra>"}
    )
    y_axis = axis("server RSS", "B")
    return figure(data, axis("connections held"), y_axis, hovermode="closest", showlegend=True)
