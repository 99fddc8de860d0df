"""The end of `connprobe load` as a person reads it: how long it took, whether that will do, what failed."""

from rich.console import Console

from connprobe.model import RunRecord
from connprobe.report.ending import news, render_ending
from connprobe.report.kernel import render_kernel
from connprobe.report.layout import Page
from connprobe.report.loadrows import count_rows, latency_rows, threshold_rows
from connprobe.report.summary import headline, render_causes, render_memory
from connprobe.report.verdicts import render_verdicts


def render_load_record(
    record: RunRecord, console: Console, *, results: str | None = None, report: str | None = None
) -> None:
    """Prints `record` on `console` (stdout); the directory of the run and its report.html are shown last."""
    page = Page(console)
    style = {"done": "bold green", "interrupted": "bold yellow"}.get(record.outcome, "bold red")
    if page.console.is_terminal:
        page.paragraph(headline(record), style)
    else:
        page.line(headline(record))  # one line, for grep
    page.heading("Latency")
    page.figures(latency_rows(record))
    if rows := threshold_rows(record):
        page.heading("Thresholds")
        page.table(
            [
                (name, page.text(met, "green" if met == "met" else "bold red"), value)
                for name, met, value in rows
            ],
            left=2,
        )
    page.heading("Connections")
    page.table(count_rows(record))
    render_causes(record, page)
    render_memory(record, page)
    render_kernel(record, page)
    render_verdicts(record.verdicts, page)
    render_ending(news(record), page, results=results, report=report)
