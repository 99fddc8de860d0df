"""The end of what a person sees: what is not known and why, and where the rest is."""

from collections.abc import Mapping

from connprobe.model import RunRecord
from connprobe.report.layout import Page


def render_ending(
    unknown: Mapping[str, str], page: Page, *, results: str | None, report: str | None = None
) -> None:
    if unknown:
        page.heading("Not known")
        page.table(list(unknown.items()))
    if results is not None:
        page.console.print()
        page.line(("results  ", "bold"), results)
    if report is not None:
        page.line(("report   ", "bold"), report)


def news(record: RunRecord) -> dict[str, str]:
    """What is not known, but for what this version, or a load, never measures: run.json says that."""
    never = ("this version", "a load ")
    return {path: why for path, why in record.unknown.items() if not why.startswith(never)}
