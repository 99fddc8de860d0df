"""The parts of a report that are words and tables: readable without any chart."""

from collections.abc import Iterable, Mapping
from typing import Any

from connprobe.model import RunRecord, Verdict
from connprobe.model.base import Record, as_json
from connprobe.plan.advice import advice
from connprobe.plan.settings import flatten
from connprobe.report import format as fmt
from connprobe.report.html.markup import Html, code, join, pairs, preformatted, table, tag
from connprobe.report.html.markup import text as safe
from connprobe.report.kernel import inference, waits
from connprobe.report.rows import Rows

DETAILS_SHOWN = 20
LONGEST_RECORD = 1 << 20  # characters of run.json that a report repeats


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


def causes(
    command: str,
    by_cause: Mapping[str, int],
    details: Mapping[str, Mapping[str, int]],
    *,
    established: bool,
) -> Html:
    rows = []
    for cause, number in sorted(by_cause.items(), key=lambda it: (-it[1], it[0])):
        if not number:
            continue
        said = sorted(details.get(cause, {}).items(), key=lambda it: (-it[1], it[0]))
        advised = advice(cause, established, said[0][0] if said else None, command=command)
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
    total = "in all" if kernel.complete else "of those seen"
    rows.append((tag("b", total), fmt.nbytes(kernel.bytes_per_connection), "", ""))
    ends = {1: "one end on this host", 2: "both ends on this host", None: ""}[kernel.ends]
    about = "; ".join(it for it in (kernel.source, ends, kernel.reason or "", kernel.fix or "") if it)
    header = ("slab", "bytes a connection", "share", "objects a connection")
    slabs = table(header, rows, right=0, label="Kernel memory by slab")
    return join([tag("p", about, class_="quiet"), slabs])


def queues_table(record: RunRecord) -> Html:
    rows = []
    for each in record.listeners:
        figures = (fmt.count(each.depth_max), fmt.count(each.capacity), fmt.count(each.overflows))
        told = (each.source, each.capacity_from, each.reason, inference(each))
        rows.append((each.address, *figures, *waits(each), "; ".join(it for it in told if it)))
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


def raw(name: str, record: Record) -> Html:
    """name: of the file that has it."""
    json = as_json(record)
    if len(json) > LONGEST_RECORD:
        return tag("p", f"{name} is too long to be repeated here: it lies beside this file.")
    return tag("details", tag("summary", name), tag("pre", preformatted(json)))


def unknown(reasons: Mapping[str, str]) -> Html:
    return pairs(sorted(reasons.items()), label="Not known, and why") if reasons else Html("")


def tiles(found: Iterable[tuple[str, str]]) -> Html:
    """(figure, what it is) of each."""
    made = (tag("div", tag("b", figure), tag("span", what), class_="tile") for figure, what in found)
    return tag("div", *made, class_="tiles")


def rows_table(label: str, rows: Rows, *, title: bool = True) -> Html:
    """The last column is left out where it says nothing."""
    if not rows.rows:
        return Html("")
    end = None if rows.spoken else -1
    cells = [row[:end] for row in rows.rows]
    made = table(rows.header[:end], cells, right=1 if rows.spoken else 0, label=label)
    return join([tag("h3", label), made]) if title else made
