"""The end of `connprobe limit` as a person reads it: the number, what is behind it, whether it was true."""

from rich.console import Console

from connprobe.model import RunRecord
from connprobe.plan.limits.costs import with_time
from connprobe.report import format as fmt
from connprobe.report.ending import news, render_ending
from connprobe.report.kernel import render_kernel
from connprobe.report.layout import Page
from connprobe.report.limits import render_limits
from connprobe.report.rows import metric_name
from connprobe.report.summary import headline, render_causes
from connprobe.report.trialrows import (
    CLASSIC,
    COMPONENTS,
    cost_rows,
    cpu_of_a_message,
    message_cpu,
    over_start_rows,
    stage_rows,
    trial_rows,
    verified_rows,
    verified_sum,
)
from connprobe.report.verdicts import render_verdicts

NO_LIMIT = "No limit can be told"


def render_limit_record(
    record: RunRecord, console: Console, *, results: str | None = None, report: str | None = None
) -> None:
    """Prints `record` on `console` (stdout); the directory of the run and its report.html are shown last."""
    page = Page(console)
    render_limits(
        record.limits,
        record.headline or no_limit(record),
        max([record.held, *(it.held for it in record.trials)]),
        page,
        left_out=record.left_out,
    )
    render_verified(record, page)
    render_stages(record, page)
    page.heading("The run")
    page.paragraph(headline(record), "" if record.outcome == "done" else "bold red", indent=2)
    if (asked := record.limit_request) is not None and (asked.server or asked.command):
        page.line("  server: ", asked.server or " ".join(asked.command))
    render_causes(record, page)
    render_kernel(record, page)
    render_verdicts(record.verdicts, page)
    render_ending(news(record), page, results=results, report=report)


def no_limit(record: RunRecord) -> str:
    """In place of the headline: why there is none."""
    broken = [it.broken for it in record.trials if it.broken]
    why = record.unknown.get("limits") or (broken[-1] if broken else "no resource grew with the connections")
    return f"{NO_LIMIT}: {why}."


def render_stages(record: RunRecord, page: Page) -> None:
    """The classic table, what one connection costs by component, and the trials one by one."""
    count = max((stage.connections.count for stage in record.stages), default=0)
    if record.stages:
        page.heading(
            "Stages" + (f": mean of {count} trials ± half of its 95 % interval" if count > 1 else "")
        )
        page.figures(stage_rows(record.stages, CLASSIC))
        read = {metric for stage in record.stages for metric in stage.use}
        for metric in CLASSIC:
            if metric not in read and (why := record.unknown.get(metric)):
                page.paragraph(f"no {metric_name(metric)}: {why}", "dim", indent=2)
        if "kernel_bytes" in read:
            page.paragraph(KERNEL_NOTE, "dim", indent=2)
    if (table := over_start_rows(record.stages)).rows:
        page.heading("A connection, over the start")
        page.figures(table)
    if (table := cost_rows(record.trials, COMPONENTS)).rows:
        page.heading("What one more connection costs")
        page.figures(table)
        page.paragraph(cost_note(record), "dim", indent=2)
    if record.trials:
        page.heading("Trials")
        page.figures(trial_rows(record.trials))


KERNEL_NOTE = (
    "kernel slabs: what the connections took of them; \u2013: it cannot be told from what others did"
)


def cost_note(record: RunRecord) -> str:
    """Where the ± of the costs comes from, and the CPU of a message."""
    number = len(record.trials)
    how = (
        "the fit of one trial"
        if number == 1
        else f"the spread of {number} trials, and no less than one alone tells"
    )
    said = f"±: half of the 95 % interval, by {how}"
    if (spent := message_cpu(record.trials)) is not None:
        each = cpu_of_a_message(spent.mean, max(it.messages for it in record.trials))
        said += f"; a message takes the server {each} of CPU"
    for trial in record.trials:
        if (found := with_time(trial)) is not None:
            coming, still = map(fmt.nbytes, found)
            which = f"trial {trial.number}: " if number > 1 else ""
            said += (
                f"; {which}memory grew by {coming} a second while connections came and by {still} while none "
                "did: with time, not with connections"
            )
    return said


def render_verified(record: RunRecord, page: Page) -> None:
    """Prediction and truth side by side; nothing where it was not asked for."""
    table = verified_rows(record)
    if not table.rows:
        return
    page.heading("Predicted and found")
    page.figures(table)
    if said := verified_sum(record):
        page.paragraph(said, "dim", indent=2)
