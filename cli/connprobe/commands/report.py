"""`connprobe report`: a run that is over, again; several side by side."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from connprobe.commands.output import finish, stdout
from connprobe.errors import UsageError

Format = Literal["terminal", "markdown", "html", "json"]


class FormatName(StrEnum):
    terminal = "terminal"
    markdown = "markdown"
    html = "html"
    json = "json"


EXAMPLES = """
Examples:

  connprobe report results/20260102T030405Z-hold-host-8080

      the summary again, and where its report.html is.

  connprobe report --format html results/20260102T030405Z-hold-host-8080

      makes report.html (again), for instance of a run by an older connprobe.

  connprobe report results/BEFORE results/AFTER

      both side by side, with ratios to the first.

  connprobe report --format markdown results/BEFORE results/AFTER > comparison.md
"""


def report(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="Directories of runs, or their run.json (pipeline.json). Several: compared.",
        ),
    ],
    format: Annotated[
        FormatName,
        typer.Option(
            help="html goes to DIR/report.html, of several runs to ./comparison.html; the rest to stdout."
        ),
    ] = FormatName.terminal,
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write there; - is standard output.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show the result of a run again, make its report.html, or compare several runs."""
    from connprobe.session.reports import report_run, report_runs

    if json and format not in (FormatName.terminal, FormatName.json):
        raise UsageError(
            f"--json and --format {format.value} exclude each other", fix="leave one of them out"
        )
    form: Format = "json" if json else format.value
    if len(directories) == 1:
        report_run(directories[0], stdout(), form, output)
    else:
        report_runs(directories, stdout(), form, output)
    finish(0)
