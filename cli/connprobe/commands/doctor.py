"""`connprobe doctor`: what this host can hold, what it cannot, and the command that changes it."""

from typing import Annotated

import typer

from connprobe.commands.options import LARGEST_COUNT
from connprobe.commands.output import finish, stdout
from connprobe.errors import UsageError
from connprobe.report.doctor import render_doctor
from connprobe.session.doctor import examine


def doctor(
    count: Annotated[int, typer.Option(help="Connections that the fixes reach for.")] = 1_000_000,
) -> None:
    """What this host can hold and what it cannot, each line with its fix."""
    if not 1 <= count <= LARGEST_COUNT:
        raise UsageError(f"--count {count} is not between 1 and {LARGEST_COUNT:,}", fix="--count 1000000")
    tables, checks = examine(count)
    render_doctor(tables, stdout(), count, checks)
    finish(0)
