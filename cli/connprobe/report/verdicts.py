"""Verdicts, each with its fix."""

from collections.abc import Sequence

from connprobe.model import Verdict
from connprobe.report.layout import Page

_LEVELS = {"good": "green", "note": "cyan", "warning": "yellow", "bad": "bold red"}


def render_verdicts(verdicts: Sequence[Verdict], page: Page) -> None:
    if not verdicts:
        return
    page.heading("Verdicts")
    for verdict in verdicts:
        page.paragraph(f"{verdict.level}: {verdict.text}", _LEVELS[verdict.level], indent=2)
        if verdict.fix:
            page.line("      ", ("fix: ", "green"), verdict.fix)
