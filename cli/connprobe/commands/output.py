"""The two streams of every command, and how it ends."""

import os
import sys

import typer
from rich.console import Console


class Output(Console):
    """Standard output that somebody may stop reading (`connprobe … | head`): the run's own status stays."""

    def on_broken_pipe(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


def stdout() -> Console:
    return Output(soft_wrap=False, highlight=False)


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def finish(exit_code: int) -> None:
    """Ends the command with a status of DESIGN's table."""
    sys.stdout.flush()
    raise typer.Exit(exit_code)
