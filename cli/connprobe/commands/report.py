"""`connprobe report`: the summary of a run that is over, again."""

from pathlib import Path
from typing import Annotated

import typer

from connprobe.commands.output import finish, stdout
from connprobe.report.summary import render_summary
from connprobe.store.rundir import load_record


def report(
    directory: Annotated[Path, typer.Argument(help="A run's directory, or its run.json.")],
    json: Annotated[bool, typer.Option("--json", help="Print the run record.")] = False,
) -> None:
    """Print the summary of a run again."""
    record = load_record(directory)
    if json:
        import msgspec

        stdout().file.write(msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n")
    else:
        render_summary(record, stdout(), results=str(directory))
    finish(0)
