"""The charts over time: connections, their rate, memory, CPU and accept queues, with the phases marked."""

from typing import Any

from connprobe.report import format as fmt
from connprobe.report.html.figures import COLOURS, DASHES, Figure, axis, curve, figure, label, note, upright
from connprobe.report.timeline import Timeline

QUEUES_SHOWN = 4
MOST_TRIALS = 100
_LABELLED = 0.07  # of the width: a shorter phase has no room for its name
_OFF_SCALE = 8  # a queue that was never fuller than this part of its capacity is drawn at its own scale


def time_charts(line: Timeline, cpus: int) -> dict[str, tuple[str, Figure]]:
    """By the id of the chart: (title, figure). What was never read has no chart."""
    made: dict[str, tuple[str, Figure]] = {}
    if line.samples < 2:
        return made
    made["connections"] = ("Connections", _connections(line))
    made["rate"] = ("Connections established a second", _rate(line))
    made["memory"] = ("Memory", _memory(line))
    if (cpu := _cpu(line, cpus)) is not None:
        made["cpu"] = ("CPU", cpu)
    if line.queues:
        made["queue"] = ("Accept queue: connections that wait, against room for them", _queues(line))
    return made


def _over_time(line: Timeline, data: list[dict[str, Any]], y: dict[str, Any], **layout: Any) -> Figure:
    shapes, names = phases(line)
    x = axis("time since the run began", "s", tickformat="", hoverformat=".1f", range=[0, line.end_s])
    layout["shapes"] = shapes + layout.get("shapes", [])
    layout["annotations"] = names + layout.get("annotations", [])
    return figure(data, x, y, **layout)


def phases(line: Timeline) -> tuple[list[Figure], list[Figure]]:
    """Every second phase is shaded, named above where there is room; a line marks where a trial begins."""
    shapes, names = [], []
    for index, span in enumerate(line.phases):
        if index % 2:
            shapes.append(
                {
                    "type": "rect",
                    "x0": span.begin_s,
                    "x1": span.end_s,
                    "y0": 0,
                    "y1": 1,
                    "yref": "paper",
                    "fillcolor": "@shade",
                    "line": {"width": 0},
                    "layer": "below",
                }
            )
        if span.end_s - span.begin_s >= _LABELLED * line.end_s:
            middle = (span.begin_s + span.end_s) / 2
            names.append(note(span.phase, middle, 1, yanchor="bottom", font={"size": 12, "color": "@quiet"}))
    for number, began in enumerate(line.trials[:MOST_TRIALS], 2):
        shape, name = upright(began, f"trial {number}", "@quiet", anchor="left")
        shapes.append(shape)
        if len(line.trials) * _LABELLED <= 1:
            names.append(name | {"yanchor": "top"})
    return shapes, names


def _series(line: Timeline, name: str, shown: str, index: int, unit: str = "", **more: Any) -> list[Any]:
    x, y = line.thinned.points(name)
    if not any(value is not None for value in y):
        return []
    style = {"dash": DASHES[index % len(DASHES)]}
    return [curve(x, y, shown, COLOURS[index % len(COLOURS)], unit, line=style, **more)]


def _connections(line: Timeline) -> Figure:
    data = _series(line, "held", "held", 0)
    for index, name in ((5, "failed"), (3, "dropped")):
        data += [it for it in _series(line, name, name, index) if any(it["y"])]
    return _over_time(line, data, axis("connections"))


def _rate(line: Timeline) -> Figure:
    data = _series(line, "rate", "established", 0, "/s")
    for each in data:
        each["line"]["shape"] = "vh"  # a mean over the second before
    return _over_time(line, data, axis("connections a second", "/s"))


def _memory(line: Timeline) -> Figure:
    data = _series(line, "rss", "server RSS", 0, "B")
    data += _series(line, "slab", "kernel slabs, growth (host)", 1, "B")
    data += _series(line, "fall", "available memory, fall (host)", 2, "B")
    return _over_time(line, data, axis("memory", "B", rangemode="normal"))


def _cpu(line: Timeline, cpus: int) -> Figure | None:
    data = _series(line, "cpu", "server", 0)
    softirq = _series(line, "softirq", "softirqs (host)", 1)
    for each in softirq:
        each["y"] = [None if value is None else value * cpus for value in each["y"]]
    for each in data + softirq:
        each |= {"hovertemplate": "%{y:.2f}"}
        each["line"]["shape"] = "vh"
    if not data + softirq:
        return None
    return _over_time(line, data + softirq, axis("CPUs busy", tickformat="", range=[0, cpus]))


def _queues(line: Timeline) -> Figure:
    data: list[dict[str, Any]] = []
    names: list[Figure] = []
    shown = line.fullest_queues(QUEUES_SHOWN)
    deepest = max(queue.deepest for queue in shown)
    capacity = max((queue.capacity or 0 for queue in shown), default=0)
    on_scale = capacity <= max(deepest, 1) * _OFF_SCALE
    for index, queue in enumerate(shown):
        data += _series(line, queue.key, queue.address, index)
        if queue.capacity and on_scale:
            ends, full = (0.0, line.end_s), (queue.capacity, queue.capacity)
            style = {"dash": "dot", "width": 1.5}
            data.append(curve(ends, full, f"{queue.address}, room", COLOURS[index], line=style))
    if capacity and not on_scale:
        each = {queue.capacity for queue in shown if queue.capacity}
        room = " to ".join(fmt.count(it) for it in sorted({min(each), max(each)}))
        most = fmt.percent(max(queue.fill for queue in shown))
        text = label(f"room for {room}, off this scale; at most {most} full", 80)
        names.append(note(text, 1, 0.98, xref="paper", xanchor="right", yanchor="top", font={"size": 12}))
    y = axis("waiting connections", range=[0, max(deepest, 1) * 1.25] if not on_scale else None)
    return _over_time(line, data, y, annotations=names, showlegend=True)
