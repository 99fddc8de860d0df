"""The typer application, and the one place where errors become text and exit codes."""

import errno
import os
import sys
import traceback
from contextlib import suppress
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import Annotated

import typer
from typer.main import get_command

from connprobe.commands import (
    compare,
    doctor,
    hold,
    limit,
    load,
    pipeline,
    report,
    restore,
    serve,
    sysctl,
    watch,
)
from connprobe.errors import ConnprobeError
from connprobe.version import __version__

app = typer.Typer(
    name="connprobe",
    help="How many connections can this server hold, what stops it first, and what to change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=hold.EXAMPLES)(hold.hold)
app.command(epilog=limit.EXAMPLES)(limit.limit)
app.command(epilog=load.EXAMPLES)(load.load)
app.command(epilog=pipeline.EXAMPLES)(pipeline.pipeline)
app.command(epilog=compare.EXAMPLES)(compare.compare)
app.command()(serve.serve)
app.command(epilog=watch.EXAMPLES)(watch.watch)
app.command(epilog=report.EXAMPLES)(report.report)
app.command()(doctor.doctor)
app.command()(restore.restore)
app.add_typer(sysctl.sysctl_app, name="sysctl", epilog=sysctl.EXAMPLES)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"connprobe {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _our_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A bug of ours: one line for the user, the traceback in a file for the report."""
    with NamedTemporaryFile("w", prefix="connprobe-bug-", suffix=".txt", delete=False) as file:
        traceback.print_exception(kind, error, trace, file=file)
    _say(f"connprobe: internal error: {kind.__name__}: {error}\n  fix: report it with {file.name}\n")


def _say(text: str) -> None:
    """On stderr. A terminal that went away takes the words along, not the exit code."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def run() -> None:
    """Runs the command line. Exits 0 done, 1 failed, 2 usage, 3 refused, 4 missed, 130 interrupted."""
    sys.excepthook = _our_fault
    try:
        get_command(app)()  # Typer.__call__ would put its own excepthook over ours
    except ConnprobeError as error:
        _say(f"connprobe: {error.message}\n" + (f"  fix: {error.fix}\n" if error.fix else ""))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("connprobe: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:  # `connprobe … | head`
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        # Files are written by the store, which names them: what has no name is standard output.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _say(f"connprobe: standard output cannot be written: {error.strerror}\n")
        os._exit(1)  # the rest of it would be tried once more
