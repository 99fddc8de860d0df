"""The parts of a report that are words and tables: readable without any chart."""

from collections.abc import Iterable, Mapping
from typing import Any

from connprobe.model import Interval, Limit, RunRecord, StageFigures, Verdict
from connprobe.plan.advice import advice
from connprobe.plan.settings import flatten
from connprobe.report import format as fmt
from connprobe.report.html.limitcharts import metric_name
from connprobe.report.html.markup import Html, join, pairs, preformatted, table, tag
from connprobe.report.html.markup import text as safe

DETAILS_SHOWN = 20
UNITS = {"bytes": "memory", "count": "", "connections": "connections"}


def amount(value: float | None, unit: str) -> str:
    if unit == "bytes":
        return fmt.nbytes(value)
    return fmt.many(value) if value is not None and abs(value) >= fmt.MANY else fmt.number(value)


def unit_of(metric: str) -> str:
    return "bytes" if metric.endswith("_bytes") else "count"


def code(value: str | None) -> Html:
    return tag("code", value) if value else Html("")


def section(title: str, *parts: Html) -> Html:
    shown = [part for part in parts if part]
    return tag("section", tag("h2", title), *shown) if shown else Html("")


def verdicts(found: Iterable[Verdict]) -> Html:
    items = []
    for verdict in found:
        fix = [tag("span", "fix: ", code(verdict.fix), class_="fix")] if verdict.fix else []
        level = tag("b", f"{verdict.level}: ")
        items.append(tag("li", level, verdict.text, *fix, class_=verdict.level))
    return tag("ul", *items, class_="verdicts") if items else Html("")


def limits_table(limits: Iterable[Limit]) -> Html:
    rows = []
    for limit in limits:
        about = [it for it in (limit.note, "approximate" if limit.approximate else None) if it]
        if limit.beyond is not None and limit.beyond > 10:
            about.append(f"a far guess: {limit.beyond:.0f} times what was held")
        interval = f"{fmt.many(limit.low)} to {fmt.many(limit.high)}"
        source = tag("small", "; ".join([limit.source, *about]) if limit.source else "; ".join(about))
        rows.append(
            (
                limit.resource.replace("_", " "),
                limit.scope,
                fmt.many(limit.connections),
                interval,
                amount(limit.capacity, limit.unit),
                amount(limit.used, limit.unit),
                amount(limit.per_connection, limit.unit),
                join([code(limit.fix), tag("br"), source]),
            )
        )
    if not rows:
        return Html("")
    header = (
        "resource",
        "of",
        "connections",
        "95 %",
        "capacity",
        "used",
        "each takes",
        "what lifts it; source",
    )
    return table(header, rows, left=2, label="Limits")


def verified(record: RunRecord) -> Html:
    found = record.verified
    if found is None:
        return Html("")
    inside = {True: "inside the predicted interval", False: "outside the predicted interval", None: ""}
    error = "" if found.error is None else f"{found.error * 100:+.1f} %"
    rows = [
        ("broke at", f"{fmt.count(found.connections)} connections"),
        ("because", found.cause),
        ("resource", (found.resource or "not known which").replace("_", " ")),
        ("side", {"client": "client: the server's limit was not reached"}.get(found.side, found.side)),
        ("predicted", fmt.count(found.predicted)),
        ("error", ", ".join(it for it in (error, inside[found.inside]) if it) or fmt.DASH),
    ]
    return join([tag("h3", "Predicted and found"), pairs(rows, label="Verification")])


def growth_table(record: RunRecord) -> Html:
    if not record.trials:
        return Html("")
    rows = []
    for growth in record.trials[-1].growth:
        steps = ", ".join(
            f"{amount(step.size, growth.unit)} at {fmt.count(step.connections)}" for step in growth.steps[:8]
        )
        bent = "" if growth.curvature is None else f"cost changes by {growth.curvature * 100:+.0f} %"
        rows.append(
            (
                metric_name(growth.metric),
                amount(growth.per_connection, growth.unit),
                f"{amount(growth.low, growth.unit)} to {amount(growth.high, growth.unit)}",
                amount(growth.base, growth.unit),
                amount(growth.residual, growth.unit),
                fmt.count(growth.readings),
                f"{fmt.count(growth.first)} to {fmt.count(growth.last)}",
                "; ".join(it for it in (growth.shape, bent, steps) if it),
            )
        )
    header = ("metric", "a connection", "95 %", "at none", "scatter", "readings", "connections", "shape")
    return table(header, rows, label="What one connection costs") if rows else Html("")


def stages_table(stages: tuple[StageFigures, ...]) -> Html:
    if not stages:
        return Html("")
    used = list(dict.fromkeys(name for stage in stages for name in stage.use))
    each = list(dict.fromkeys(name for stage in stages for name in stage.bytes_per_connection))
    rows = [
        (
            stage.stage,
            interval(stage.connections, "count"),
            *(interval(stage.use.get(name), unit_of(name)) for name in used),
            *(interval(stage.bytes_per_connection.get(name), "bytes") for name in each),
            "" if stage.cpu_share is None else _share(stage.cpu_share),
        )
        for stage in stages
    ]
    names = [metric_name(name) for name in used] + [f"{metric_name(name)} a connection" for name in each]
    return table(("stage", "connections", *names, "CPU"), rows, right=0, label="Stages")


def interval(value: Interval | None, unit: str) -> Html:
    if value is None:
        return safe(fmt.DASH)
    mean = safe(amount(value.mean, unit))
    if value.low is None or value.high is None:
        return mean
    between = f"{amount(value.low, unit)} to {amount(value.high, unit)}"
    return join([mean, tag("br"), tag("small", between)])


def _share(value: Interval) -> str:
    return fmt.percent(value.mean) + " of one CPU"


def causes(
    by_cause: Mapping[str, int], details: Mapping[str, Mapping[str, int]], *, established: bool
) -> Html:
    rows = []
    for cause, number in sorted(by_cause.items(), key=lambda it: (-it[1], it[0])):
        if not number:
            continue
        said = sorted(details.get(cause, {}).items(), key=lambda it: (-it[1], it[0]))
        advised = advice(cause, established, said[0][0] if said else None)
        seen = [
            tag("div", f"{fmt.count(times)} \u00d7 ", safe(it, 300)) for it, times in said[:DETAILS_SHOWN]
        ]
        if len(said) > DETAILS_SHOWN:
            seen.append(tag("div", f"and {fmt.count(len(said) - DETAILS_SHOWN)} more kinds"))
        meaning = tag("div", f"{advised.meaning} ({advised.side} side)")
        fix = tag("div", "fix: ", code(advised.fix), class_="fix")
        rows.append((fmt.count(number), tag("b", cause), join(seen), join([meaning, fix])))
    if not rows:
        return Html("")
    name = "Dropped: established, then lost" if established else "Failed: never established"
    header = ("connections", "cause", "seen", "what it means")
    return join([tag("h3", name), table(header, rows, left=3, label=name)])


def slabs_table(record: RunRecord) -> Html:
    kernel = record.kernel
    if kernel is None:
        return Html("")
    rows = []
    for name, size in sorted(kernel.slabs.items(), key=lambda it: (-it[1], it[0])):
        share = size / kernel.bytes_per_connection if kernel.bytes_per_connection > 0 else None
        objects = kernel.objects_per_connection.get(name)
        number = fmt.DASH if objects is None else f"{objects:.2f}"
        rows.append((name, fmt.nbytes(size), fmt.percent(share), number))
    rows.append((tag("b", "in all"), fmt.nbytes(kernel.bytes_per_connection), "", ""))
    ends = {1: "one end on this host", 2: "both ends on this host", None: ""}[kernel.ends]
    about = "; ".join(it for it in (kernel.source, ends, kernel.reason or "", kernel.fix or "") if it)
    header = ("slab", "bytes a connection", "share", "objects a connection")
    slabs = table(header, rows, right=0, label="Kernel memory by slab")
    return join([tag("p", about, class_="quiet"), slabs])


def queues_table(record: RunRecord) -> Html:
    rows = []
    for each in record.listeners:
        wait = each.wait_ms
        times = [fmt.ms(value) for value in ((wait.p50, wait.p99, wait.max) if wait else (None,) * 3)]
        figures = (fmt.count(each.depth_max), fmt.count(each.capacity), fmt.count(each.overflows))
        about = "; ".join(it for it in (each.source, each.capacity_from or "", each.reason or "") if it)
        rows.append((each.address, *figures, *times, about))
    header = ("address", "deepest", "room", "overflows", "wait p50", "p99", "max", "source")
    return table(header, rows, label="Accept queues") if rows else Html("")


def observer(record: RunRecord) -> Html:
    watch = record.observer
    cost = f"{fmt.duration(watch.cpu_s)} of CPU, {fmt.nbytes(watch.pss_bytes)} of memory (PSS), "
    cost += f"{fmt.count(watch.samples)} samples of which {fmt.count(watch.late_samples)} late"
    rows = [
        (
            probe.name,
            probe.source or "not answered",
            fmt.nbytes(probe.kernel_memory_bytes),
            ", ".join(f"{fmt.count(number)} {cause}" for cause, number in probe.lost.items()),
            "; ".join(it for it in (probe.reason, probe.fix) if it),
        )
        for probe in watch.probes
    ]
    header = ("question", "answered by", "its kernel memory", "not counted", "why not better, and the fix")
    probes = table(header, rows, left=2, label="Probes") if rows else Html("")
    return join([tag("h3", "What watching took"), tag("p", cost), probes])


def settings(title: str, record: Any, *, without: frozenset[str] = frozenset()) -> Html:
    rows = list(flatten(record, without=without).items())
    if not rows:
        return Html("")
    return join([tag("h3", title), pairs([(key, safe(value, 400)) for key, value in rows], label=title)])


def raw(json: str, most: int) -> Html:
    if len(json) > most:
        return tag("p", "run.json is too long to be repeated here: it lies beside this file.")
    return tag("details", tag("summary", "run.json"), tag("pre", preformatted(json)))
