"""Several runs side by side: their figures as ratios to the first, and what was set otherwise."""

from collections.abc import Callable, Sequence
from typing import Literal

from connprobe.model import RunRecord
from connprobe.model.comparison import (
    COMPARISON_SCHEMA,
    ComparedFigure,
    ComparedRun,
    Comparison,
    Difference,
)
from connprobe.plan.limits.costs import costs
from connprobe.plan.limits.headline import OF_TRAFFIC
from connprobe.plan.load import wrong
from connprobe.plan.settings import flatten

Unit = Literal["count", "number", "share", "bytes", "s", "ms", "per_s"]
Get = Callable[[RunRecord], float | None]
_LABELS = "abcdefghijklmnopqrstuvwxyz"
MOST_RUNS = len(_LABELS)

_WRONG = wrong("ws", 0)  # of HTTP there are answers: see `compare`

_FIGURES: tuple[tuple[str, str, Unit, Get], ...] = (
    ("connections", "asked", "count", lambda it: it.requested),
    ("connections", "held", "count", lambda it: it.held if it.load is None else None),
    ("connections", "done", "count", lambda it: it.load.visited if it.load else None),
    ("connections", _WRONG, "count", lambda it: it.load.wrong if it.load else None),
    ("connections", "failed", "count", lambda it: it.failed),
    ("connections", "dropped", "count", lambda it: it.dropped),
    (
        "connections",
        "established a second",
        "per_s",
        lambda it: it.connections_per_s or None if it.load is None else None,
    ),
    (
        "connections",
        "done a second",
        "per_s",
        lambda it: it.connections_per_s or None if it.load is not None else None,
    ),
    ("connections", "ramp", "s", lambda it: it.ramp_s),
    ("handshake", "mean", "ms", lambda it: it.handshake_ms.mean if it.handshake_ms else None),
    ("handshake", "p50", "ms", lambda it: it.handshake_ms.p50 if it.handshake_ms else None),
    ("handshake", "p99", "ms", lambda it: it.handshake_ms.p99 if it.handshake_ms else None),
    ("handshake", "max", "ms", lambda it: it.handshake_ms.max if it.handshake_ms else None),
    ("message", "mean", "ms", lambda it: it.message_ms.mean if it.message_ms else None),
    ("message", "p50", "ms", lambda it: it.message_ms.p50 if it.message_ms else None),
    ("message", "p99", "ms", lambda it: it.message_ms.p99 if it.message_ms else None),
    ("message", "max", "ms", lambda it: it.message_ms.max if it.message_ms else None),
    ("message", "answered a second", "per_s", lambda it: it.load.messages_per_s if it.load else None),
    ("server", "RSS at start", "bytes", lambda it: it.server.start_rss_bytes if it.server else None),
    ("server", "RSS at peak", "bytes", lambda it: it.server.peak_rss_bytes if it.server else None),
    ("server", "RSS idle", "bytes", lambda it: it.server.idle_rss_bytes if it.server else None),
    ("server", "RSS a connection", "bytes", lambda it: it.server.bytes_per_connection if it.server else None),
    (
        "server",
        "PSS a connection",
        "bytes",
        lambda it: it.server.pss_bytes_per_connection if it.server else None,
    ),
    ("server", "CPU", "s", lambda it: it.server.cpu_s if it.server else None),
    ("runtime", "heap", "bytes", lambda it: it.runtime.heap_bytes if it.runtime else None),
    (
        "runtime",
        "heap a connection",
        "bytes",
        lambda it: it.runtime.heap_bytes_per_connection if it.runtime else None,
    ),
    (
        "kernel",
        "memory a connection",
        "bytes",
        lambda it: it.kernel.bytes_per_connection if it.kernel else None,
    ),
    ("accept queue", "deepest", "count", lambda it: _over(it, "depth_max", max)),
    ("accept queue", "overflows", "count", lambda it: _over(it, "overflows", sum)),
    ("client", "PSS a connection", "bytes", lambda it: it.client.pss_bytes_per_connection),
    ("client", "CPU", "s", lambda it: it.client.cpu_s),
)


def compare(records: Sequence[RunRecord], paths: Sequence[str], headlines: Sequence[str]) -> Comparison:
    """2 to MOST_RUNS records; `paths` and `headlines` belong to them."""
    runs = [
        ComparedRun(label=label, path=path, command=it.command, started_at=it.started_at, headline=said)
        for label, path, it, said in zip(_LABELS, paths, records, headlines, strict=False)
    ]
    requests = any(it.request.protocol == "http" for it in records)
    names = {_WRONG: wrong("http", 0)} if requests else {}
    figures = [
        _figure(group, names.get(name, name), unit, [get(it) for it in records])
        for group, name, unit, get in _FIGURES
    ]
    known = _known(figures)
    return Comparison(
        schema=COMPARISON_SCHEMA,
        runs=tuple(runs),
        figures=tuple(_limits(records) + _verified(records) + _costs(records) + _stages(records) + known),
        differences=tuple(_differences(records)),
        notes=tuple(_notes(records)),
    )


def _over(
    record: RunRecord, name: Literal["depth_max", "overflows"], join: Callable[[list[int]], int]
) -> int | None:
    found = [getattr(each, name) for each in record.listeners]
    known = [value for value in found if value is not None]
    return join(known) if known else None


def _limits(records: Sequence[RunRecord]) -> list[ComparedFigure]:
    """The first limit of each, then each resource that any run names; the lowest where there are several.

    Those of traffic count otherwise, and do not come first.
    """
    lowest: list[dict[str, float]] = []
    for record in records:
        ends: dict[str, float] = {}
        for limit in record.limits:
            ends[limit.resource] = min(limit.connections, ends.get(limit.resource, float("inf")))
        lowest.append(ends)
    names = dict.fromkeys(limit.resource for record in records for limit in record.limits)
    held = [{name: it[name] for name in it if name not in OF_TRAFFIC} for it in lowest]
    first = _figure("limits", "the first", "count", [min(it.values(), default=None) for it in held])
    each = [
        _figure(
            "limits of traffic" if name in OF_TRAFFIC else "limits",
            name.replace("_", " "),
            "count",
            [it.get(name) for it in lowest],
        )
        for name in sorted(names, key=lambda name: name in OF_TRAFFIC)
    ]
    return _known([first, *each])


def _verified(records: Sequence[RunRecord]) -> list[ComparedFigure]:
    """Prediction and truth, means over the trials in which the server broke, not the client."""
    found = [
        [trial.verified for trial in record.trials if trial.verified is not None]
        or ([record.verified] if record.verified is not None else [])
        for record in records
    ]
    broke = [[it for it in each if it.side == "server"] for each in found]
    inside = [[it.inside for it in each if it.inside is not None] for each in broke]
    figures = [
        _figure("verified", "predicted", "count", [_mean([it.predicted for it in each]) for each in broke]),
        _figure("verified", "broke at", "count", [_mean([it.connections for it in each]) for each in broke]),
        _figure("verified", "error", "share", [_mean([it.error for it in each]) for each in broke]),
        _figure("verified", "trials", "count", [len(each) or None for each in broke]),
        _figure("verified", "inside", "count", [sum(each) if each else None for each in inside]),
    ]
    return _known(figures)


def _costs(records: Sequence[RunRecord]) -> list[ComparedFigure]:
    """What one more connection costs, by metric."""
    found = [{cost.metric: cost for cost in costs(record.trials)} for record in records]
    figures = []
    for metric in dict.fromkeys(name for each in found for name in each):
        values = [each[metric].each.mean if metric in each else None for each in found]
        unit: Unit = "bytes" if metric.endswith("_bytes") else "number"
        figures.append(_figure("one more connection", _metric(metric), unit, values))
    return figures


def _stages(records: Sequence[RunRecord]) -> list[ComparedFigure]:
    """RSS at each stage but the steps of the ramp; CPU of a message."""
    found = [{stage.stage: stage for stage in it.stages if stage.stage != "ramp"} for it in records]
    figures = []
    for name in dict.fromkeys(stage for each in found for stage in each):
        for metric in ("rss_bytes", "heap_bytes"):
            used = [each[name].use.get(metric) if name in each else None for each in found]
            values = [None if value is None else value.mean for value in used]
            figures.append(_figure("stages", f"{name}, {_metric(metric)}", "bytes", values))
    spent = [
        _mean([it.message_cpu_s / it.messages for it in record.trials if it.message_cpu_s and it.messages])
        for record in records
    ]
    p99 = [_mean([it.message_ms.p99 for it in record.trials if it.message_ms]) for record in records]
    figures.append(
        _figure("messages", "CPU a message", "ms", [None if it is None else it * 1000 for it in spent])
    )
    figures.append(_figure("messages", "round trip p99", "ms", p99))
    return _known(figures)


def _metric(name: str) -> str:
    short = name.removesuffix("_bytes").replace("_", " ")
    return short.upper() if short in ("rss", "pss", "uss") else short


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _known(figures: Sequence[ComparedFigure]) -> list[ComparedFigure]:
    return [it for it in figures if any(value is not None for value in it.values)]


def _figure(group: str, name: str, unit: Unit, values: Sequence[float | None]) -> ComparedFigure:
    first = values[0] if unit != "share" else None
    ratios = [None if value is None or not first else value / first for value in values]
    return ComparedFigure(group=group, name=name, unit=unit, values=tuple(values), ratios=tuple(ratios))


def _differences(records: Sequence[RunRecord]) -> list[Difference]:
    parts = {
        "connprobe": [
            {"version": it.connprobe, "command": it.command, "target": it.target} for it in records
        ],
        "machine": [flatten(it.host) for it in records],
        "asked for": [flatten(it.request) for it in records],
        "asked of the server": [flatten(it.limit_request) for it in records],
        "asked of each connection": [flatten(it.load_request) for it in records],
        "plan": [flatten(it.plan, without=frozenset({"shards", "target"})) for it in records],
    }
    found = []
    for part, lines in parts.items():
        for name in dict.fromkeys(key for each in lines for key in each):
            values = tuple(each.get(name) for each in lines)
            if len(set(values)) > 1:
                found.append(Difference(part=part, name=name, values=values))
    return found


def _notes(records: Sequence[RunRecord]) -> list[str]:
    notes = []
    commands = sorted({it.command for it in records})
    if len(commands) > 1:
        notes.append(
            f"Runs of {' and '.join(commands)}: only the figures that both have can be compared."
            + (" limit waits for memory to settle, hold does not." if "load" not in commands else "")
        )
    if len({it.requested for it in records}) > 1:
        notes.append("Not the same number of connections was asked for: compare figures a connection.")
    for label, record in zip(_LABELS, records, strict=False):
        if record.outcome != "done":
            notes.append(f"{label} did not end as asked: {record.outcome}.")
    return notes
