"""Where a server ends: the sentence, and the table behind it with what lifts each limit."""

from collections.abc import Sequence

from connprobe.model import Limit
from connprobe.report.layout import Page
from connprobe.report.limitrows import folded, limit_rows, notes, shown, traffic_rows


def render_limits(
    limits: Sequence[Limit], headline: str | None, held: int, page: Page, *, record: str = "run.json"
) -> None:
    """`limits` as sorted by plan.limits, of which `held` were held. record: the file that has them all."""
    if headline is not None:
        if page.console.is_terminal:
            page.paragraph(headline, "bold")
        else:
            page.line(headline)  # one line, for grep
    if not limits:
        return
    parts = shown(limits)
    if parts.held:
        page.heading(f"Limits, from {held:,} held")
        page.figures(limit_rows(parts.held))
    if parts.folded:
        page.paragraph(folded(parts.folded, record), "dim", indent=2)
    if parts.traffic:
        page.heading("Limits of traffic: they count otherwise than connections held")
        page.figures(traffic_rows(parts.traffic, len(parts.held) + 1))
    numbered = parts.held + parts.traffic
    page.heading("What lifts them")
    for number, limit in enumerate(numbered, 1):
        if limit.fix:
            page.line(f"  {number}. ", (limit.fix, "green"))
    for which, said in notes(numbered):
        page.paragraph(f"{which}: {said}", "dim", indent=2)
