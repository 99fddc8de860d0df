"""The two streams of every command, and how it ends."""

import sys

import typer
from rich.console import Console


def stdout() -> Console:
    return Console(soft_wrap=False, highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def finish(exit_code: int) -> None:
    """Ends the command with a status of DESIGN's table."""
    sys.stdout.flush()
    raise typer.Exit(exit_code)
