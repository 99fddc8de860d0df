"""Several runs side by side, on a terminal and in Markdown."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from connprobe.model.comparison import ComparedFigure, Comparison, Difference
from connprobe.report import format as fmt
from connprobe.report.layout import Page
from connprobe.report.markdown import escaped, in_code, markdown_table
from connprobe.report.plots import plots
from connprobe.report.rows import cost
from connprobe.report.timeline import Timeline

_VALUE_LENGTH = 60


def render_comparison(comparison: Comparison, lines: Sequence[Timeline], console: Console) -> None:
    """Prints it on `console` (stdout): who is who, the figures, charts, and what was set otherwise."""
    page = Page(console)
    for run in comparison.runs:
        page.line((f"{run.label}  ", "bold"), run.path)
        page.paragraph(run.headline, indent=3)
    if comparison.notes:
        page.console.print()
    for text in comparison.notes:
        page.paragraph(f"note: {text}", "yellow")
    labels = [run.label for run in comparison.runs]
    page.heading("Figures, and their ratio to a")
    header, rows = figure_rows(comparison)
    page.table([[page.text(cell) for cell in row] + [Text("")] for row in rows], left=2, header=[*header, ""])
    for title, chart in plots(lines, labels, page):
        page.heading(title)
        page.console.print(chart, soft_wrap=True, highlight=False)
    page.heading("What was set otherwise")
    if not comparison.differences:
        page.paragraph("nothing: the same machine, settings and plan", indent=2)
        return
    different = [
        [page.text(cell, limit=_VALUE_LENGTH) for cell in (it.part, it.name, *shown_values(it))]
        for it in comparison.differences
    ]
    page.table(different, left=2 + len(labels), header=("", "", *labels))


def figure_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of figures: the value, and beside all but the first its ratio."""
    labels = [run.label for run in comparison.runs]
    header = ["", "", labels[0]]
    for label in labels[1:]:
        header += [label, f"{label}/{labels[0]}"]
    rows = []
    group = None
    for figure in comparison.figures:
        row = [figure.group if figure.group != group else "", figure.name]
        group = figure.group
        for index, value in enumerate(figure.values):
            row.append(shown(figure, value))
            if index:
                row.append(ratio(figure.ratios[index]))
        rows.append(row)
    return header, rows


def shown(figure: ComparedFigure, value: float | None) -> str:
    match figure.unit:
        case "bytes":
            return cost(value, "bytes")
        case "s":
            return fmt.duration(value)
        case "ms":
            return fmt.ms(value)
        case "per_s":
            return fmt.rate(value)
        case "count":
            return fmt.many(value)
        case "number":
            return fmt.number(value)
        case "share":
            return fmt.DASH if value is None else f"{value * 100:+.1f}%"


def ratio(value: float | None) -> str:
    if value is None:
        return fmt.DASH
    return f"{value:.2f}" if value < 99.5 else fmt.many(value)


def shown_values(difference: Difference) -> list[str]:
    return [fmt.DASH if value is None else value for value in difference.values]


def markdown(comparison: Comparison) -> str:
    """The same as GitHub-flavoured Markdown, for an issue or a README."""
    labels = [run.label for run in comparison.runs]
    lines = [f"- **{run.label}** `{in_code(run.path)}`: {escaped(run.headline)}" for run in comparison.runs]
    lines += ["", *(f"> {escaped(text)}" for text in comparison.notes)]
    header, rows = figure_rows(comparison)
    lines += ["", *markdown_table(header, rows, left=2)]
    lines += ["", "What was set otherwise:", ""]
    if comparison.differences:
        different = [[it.part, it.name, *shown_values(it)] for it in comparison.differences]
        lines += markdown_table(["", "", *labels], different, left=2 + len(labels))
    else:
        lines.append("nothing: the same machine, settings and plan")
    return "\n".join(lines) + "\n"
