"""What `limit` measured as rows: the classic table, the cost of one connection, prediction and truth."""

from collections.abc import Sequence

from connprobe.model import Growth, Interval, Limit, RunRecord, StageFigures, Trial, Verified
from connprobe.plan.limits.costs import Cost, costs
from connprobe.plan.limits.interval import interval
from connprobe.plan.limits.resources import NAMES
from connprobe.plan.limits.stages import TICK_S
from connprobe.report import format as fmt
from connprobe.report.limitrows import span
from connprobe.report.rows import (
    Rows,
    amount,
    cost,
    in_order,
    metric_name,
    plus_minus,
    share,
    unit_of,
)

CLASSIC = ("rss_bytes", "heap_bytes", "kernel_bytes")
COMPONENTS = (*CLASSIC, "pss_bytes", "uss_bytes", "cgroup_bytes", "memory_bytes", "fds", "threads")
_STEPS_SHOWN = 6
_NO_GROWTH = "does not grow measurably"


def stage_rows(stages: Sequence[StageFigures], metrics: Sequence[str] | None = None) -> Rows:
    """metrics: None: all that were read."""
    used = in_order(it for stage in stages for it in stage.use if metrics is None or it in metrics)
    rows = [
        (
            stage.stage,
            plus_minus(stage.connections, "count"),
            *(plus_minus(stage.use.get(metric), unit_of(metric)) for metric in used),
            share(stage.cpu_share),
            "",
        )
        for stage in stages
    ]
    return Rows(("", "connections", *map(metric_name, used), "CPU (of one)", ""), rows)


def over_start_rows(stages: Sequence[StageFigures]) -> Rows:
    """Bytes of one connection over the start, by component, at the stages after the ramp."""
    there = [it for it in stages if it.stage != "ramp" and it.bytes_per_connection]
    metrics = in_order(metric for stage in there for metric in stage.bytes_per_connection)
    rows = [
        (
            metric_name(metric),
            *(plus_minus(it.bytes_per_connection.get(metric), "bytes", each=True) for it in there),
            "",
        )
        for metric in metrics
    ]
    return Rows(("", *(it.stage for it in there), ""), rows)


def cost_rows(trials: Sequence[Trial], metrics: Sequence[str] | None = None) -> Rows:
    """By component, with the shape of its growth in words. metrics: None: all that were fitted."""
    rows = []
    found = {each.metric: each for each in costs(trials) if metrics is None or each.metric in metrics}
    for each in map(found.__getitem__, in_order(found)):
        unit = each.last.unit
        rows.append(
            (
                metric_name(each.metric),
                plus_minus(each.each, unit, each=True),
                plus_minus(each.base, unit),
                amount(each.last.residual, unit),
                f"{fmt.count(each.last.first)}{fmt.DASH}{fmt.count(each.last.last)}",
                _shapes(each),
            )
        )
    return Rows(("", "a connection", "at none", "scatter", "over", "shape"), rows)


def shape(growth: Growth) -> str:
    """In words."""
    match growth.shape:
        case "flat":
            if growth.high < 0:
                return f"falls by {cost(-growth.per_connection, growth.unit)} a connection"
            return _NO_GROWTH
        case "bent":
            curvature = growth.curvature or 0.0
            way = "dearer" if curvature > 0 else "cheaper"
            return f"bent: {abs(curvature):.0%} {way} at the last than at the first"
        case "stepped":
            steps = [
                f"{cost(step.size, growth.unit)} at {fmt.count(step.connections)}"
                for step in growth.steps[:_STEPS_SHOWN]
            ]
            rest = len(growth.steps) - len(steps)
            return f"in steps: {', '.join(steps)}" + (f" and {rest} more" if rest else "")
        case "straight":
            return "straight"


def _shapes(each: Cost) -> str:
    said = shape(each.last)
    if (out := each.last.outliers) > 0:
        said += f"; {fmt.count(out)} reading{'' if out == 1 else 's'} left out, apart from all others"
    others = {name: number for name, number in each.shapes.items() if name != each.last.shape}
    if not others:
        return said
    names = {"flat": _NO_GROWTH, "stepped": "in steps"}
    rest = ", ".join(f"{names.get(shape, shape)} in {number}" for shape, number in others.items())
    return f"{said} (of {sum(each.shapes.values())} trials: {rest})"


def trial_rows(trials: Sequence[Trial]) -> Rows:
    """One row each: what was held, how messages went, and what was wrong with it."""
    rows = []
    for trial in trials:
        took = trial.message_ms
        spent = trial.message_cpu_s
        each_s = spent / trial.messages if spent is not None and trial.messages else None
        rate = trial.messages / trial.messaging_s if trial.messages and trial.messaging_s else None
        idle = trial.idle_cpu_share
        rows.append(
            (
                f"trial {trial.number}",
                fmt.count(trial.held),
                fmt.count(trial.messages) if took is not None or trial.messages else fmt.DASH,
                fmt.rate(rate),
                *(fmt.ms(value) for value in ((took.p50, took.p99, took.max) if took else (None,) * 3)),
                fmt.DASH if each_s is None else cpu_of_a_message(each_s, trial.messages),
                fmt.DASH if idle is None else f"{fmt.number(idle * 100)}%",
                _wrong(trial),
            )
        )
    header = ("", "held", "messages", "rate", "p50", "p99", "max", "CPU a message", "idle CPU", "remarks")
    return Rows(header, rows)


def cpu_of_a_message(each_s: float, messages: int) -> str:
    """All of them may take less than the tick that CPU is told in: that is not nothing."""
    if each_s > 0 or not messages:
        return fmt.ms(each_s * 1000)
    return f"under {fmt.number(TICK_S / messages * 1000)} ms"


def _wrong(trial: Trial) -> str:
    said = [f"ended early: {trial.broken}"] if trial.broken else []
    if trial.unsettled:
        said.append("memory did not settle: " + ", ".join(dict.fromkeys(trial.unsettled)))
    return "; ".join(said)


def message_cpu(trials: Sequence[Trial]) -> Interval | None:
    """CPU seconds of the server for one message, over the trials."""
    return interval(
        [it.message_cpu_s / it.messages for it in trials if it.message_cpu_s is not None and it.messages]
    )


def verified_rows(record: RunRecord) -> Rows:
    """Prediction and truth side by side, a row for each trial that was verified."""
    found = [
        (f"trial {it.number}", it.verified, it.limits) for it in record.trials if it.verified is not None
    ]
    if not found and record.verified is not None:
        found = [("this run", record.verified, record.limits)]
    rows = [
        (
            who,
            fmt.count(true.predicted),
            _predicted_interval(true, limits),
            fmt.count(true.connections),
            fmt.DASH if true.error is None else f"{true.error * 100:+.1f}%",
            {True: "yes", False: "no", None: fmt.DASH}[true.inside],
            _broke(true),
        )
        for who, true, limits in found
    ]
    return Rows(("", "predicted", "95 %", "true", "error", "inside", "what broke first"), rows)


def _predicted_interval(true: Verified, limits: Sequence[Limit]) -> str:
    same = [it for it in limits if it.connections == true.predicted]
    limit = next((it for it in same if it.resource == true.resource), same[0] if same else None)
    return fmt.DASH if limit is None else span(limit)


def _broke(true: Verified) -> str:
    resource = true.resource and NAMES.get(true.resource, true.resource.replace("_", " "))
    match true.side:
        case "client":
            return (
                f"the client gave out first, the server's limit was not reached: {resource or true.cause}"
                + (f", {true.cause}" if resource else "")
            )
        case "none":
            return f"nothing broke: {true.cause}"
        case "server":
            return f"the server, {resource or 'not known by which resource'}: {true.cause}"


def verified_sum(record: RunRecord) -> str:
    """All trials in one sentence; "" if there is nothing to add up."""
    found = [it.verified for it in record.trials if it.verified is not None and it.verified.side == "server"]
    errors = [abs(it.error) for it in found if it.error is not None]
    inside = [it.inside for it in found if it.inside is not None]
    said = []
    if inside:
        said.append(f"{sum(inside)} of {len(inside)} inside the predicted interval")
    if errors:
        worst = max(errors)
        said.append(f"off by {worst:.1%} at most" if len(errors) > 1 else f"off by {worst:.1%}")
    return ", ".join(said).capitalize() + "." if said else ""
