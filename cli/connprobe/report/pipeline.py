"""The end of `connprobe pipeline` as a person reads it: the sentence, the steps, what one request takes."""

from collections.abc import Sequence

from rich.console import Console

from connprobe.model import Growth, PipelineRecord, Verified
from connprobe.plan.limits.growth import value_at
from connprobe.plan.limits.resources import NAMES, capacity, name
from connprobe.report import format as fmt
from connprobe.report.ending import render_ending
from connprobe.report.layout import Page
from connprobe.report.limitrows import origin, span
from connprobe.report.rows import Rows, amount, cost, in_order, metric_name
from connprobe.report.trialrows import shape
from connprobe.report.verdicts import render_verdicts

BOUND_NOTE = "where sending stops; no end of the server's"


def render_pipeline(
    record: PipelineRecord, console: Console, *, results: str | None = None, report: str | None = None
) -> None:
    """Prints `record` on `console` (stdout); the directory of the run and its report.html are shown last."""
    page = Page(console)
    if console.is_terminal:
        page.paragraph(record.headline, "bold")
    else:
        page.line(record.headline)  # one line, for grep
    if record.steps:
        page.heading(f"Steps, with requests of {record.request_bytes} B")
        page.figures(step_rows(record))
    if record.growth:
        page.heading("What one more pending request costs")
        page.figures(cost_rows(record.growth))
    if record.limits or record.memory_bound_met is not None:
        page.heading("Where it ends")
        page.figures(end_rows(record))
        for limit in record.limits:
            if limit.fix:
                page.line(f"  {name(limit)}: ", (limit.fix, "green"))
    if record.verified is not None:
        page.heading("Predicted and found")
        page.figures(verified_rows(record))
    render_verdicts(record.verdicts, page)
    render_ending(record.unknown, page, results=results, report=report)


def step_rows(record: PipelineRecord) -> Rows:
    """Each step, settled, with the memory that was read then."""
    readings = [each for each in record.readings if each.stage == "ramp"]
    rows = [
        (
            f"step {number}",
            fmt.count(step.sent),
            fmt.count(step.received),
            fmt.count(step.answered),
            fmt.count(step.pending),
            *(fmt.nbytes(reading.use.get(metric)) for metric in ("rss_bytes", "heap_bytes")),
            fmt.nbytes(step.socket_bytes),
            fmt.rate((step.received - before) / step.send_s if step.send_s else None),
            "" if step.settled else "memory did not settle",
        )
        for number, (step, reading, before) in enumerate(
            zip(record.steps, readings, [0, *(each.received for each in record.steps)], strict=False), 1
        )
    ]
    read = "read by it" if record.received_by == "read" else "acknowledged"
    header = ("", "sent", read, "answered", "pending", "RSS", "live heap", "in sockets", "read at", "")
    return Rows(header, rows)


def cost_rows(growths: Sequence[Growth]) -> Rows:
    """By component, with its 95 % interval and the shape of its growth in words."""
    found = {each.metric: each for each in growths}
    rows = [
        (
            metric_name(metric),
            cost(each.per_connection, each.unit),
            f"{cost(each.low, each.unit)}{fmt.DASH}{cost(each.high, each.unit)}",
            amount(value_at(each, 0), each.unit),
            f"{fmt.count(each.first)}{fmt.DASH}{fmt.count(each.last)}",
            shape(each),
        )
        for metric in in_order(found)
        if (each := found[metric])
    ]
    return Rows(("", "a request", "95 %", "at none", "over", "shape"), rows)


def end_rows(record: PipelineRecord) -> Rows:
    """Pending requests at which each resource ends, and at which the bound is met."""
    bound = [record.memory_bound_met] if record.memory_bound_met is not None else []
    rows = [
        (
            name(limit),
            fmt.many(limit.connections),
            span(limit),
            capacity(limit),
            cost(limit.per_connection, limit.unit),
            BOUND_NOTE if limit in bound else "; ".join(it for it in (origin(limit), limit.note) if it),
        )
        for limit in sorted((*record.limits, *bound), key=lambda each: each.connections)
    ]
    return Rows(("", "requests", "95 %", "capacity", "each takes", "from"), rows)


def verified_rows(record: PipelineRecord) -> Rows:
    true = record.verified
    assert true is not None
    limit = next((each for each in record.limits if each.connections == true.predicted), None)
    resource = true.resource and NAMES.get(true.resource, true.resource)
    row = (
        "",
        fmt.count(true.predicted),
        fmt.DASH if limit is None else span(limit),
        _true(true),
        fmt.DASH if true.error is None else f"{true.error * 100:+.1f}%",
        {True: "yes", False: "no", None: fmt.DASH}[true.inside],
        f"{resource}: {true.cause}" if resource else true.cause,
    )
    return Rows(("", "predicted", "95 %", "true", "error", "inside", "what broke"), [row])


def _true(true: Verified) -> str:
    """Where it was, or between which two the death fell."""
    if true.most is None:
        return fmt.count(true.connections)
    return f"{fmt.count(true.connections)}{fmt.DASH}{fmt.count(true.most)}"
