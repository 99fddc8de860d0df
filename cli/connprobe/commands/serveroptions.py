"""Options of the commands that measure one server, started here or running already."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from connprobe.errors import UsageError

CommandArgument = Annotated[
    list[str] | None,
    typer.Argument(help="The server to start, and its arguments, after `--`.", show_default=False),
]
ServerOption = Annotated[
    str | None, typer.Option(help="Start a reference server by its name; see targets/README.md.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE of the reference server, repeatable.")
]
PortOption = Annotated[
    int | None, typer.Option(help="Where it listens. Without it: the one port that it opens.")
]
RunningOption = Annotated[
    str | None, typer.Option(help="HOST:PORT of a server that runs already on this host.")
]
StepsOption = Annotated[int, typer.Option(help="Steps of the ramp, each settled before it is read.")]
HeapLimitOption = Annotated[
    str | None, typer.Option(help="Where the heap ends, where the runtime does not say it: 1.7GB.")
]
StartupOption = Annotated[str, typer.Option(help="The longest wait until the server listens.")]
SettleOption = Annotated[str, typer.Option(help="The longest wait for memory to settle.")]


def settings(texts: list[str] | None) -> dict[str, str]:
    """What --set says. Raises UsageError."""
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--set {text!r} is not NAME=VALUE", fix="--set heap_mb=80")
        found[name] = value
    return found


def check_server(
    command: list[str] | None,
    server: str | None,
    target: str | None,
    pid: int | None,
    port: int | None,
    repeat: int,
    options: list[str] | None,
    name: str = "limit",
) -> None:
    """One server, and one way to it. Raises UsageError."""
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"--port {port} is not between 1 and 65,535", fix="--port 8080")
    starts = bool(command) + (server is not None)
    if starts > 1:
        raise UsageError("both --server and a command to start", fix="one of them")
    if starts and target is not None:
        raise UsageError(
            "--target is for a server that runs already",
            fix="leave it out: connprobe connects to the server that it starts",
        )
    if starts and pid is not None:
        raise UsageError("--pid is for a server that runs already", fix="leave it out")
    if options and server is None:
        raise UsageError("--set is for a reference server", fix="--server node-array --set heap_mb=80")
    if not starts and target is None and pid is None and port is None:
        raise UsageError(
            "no server is named", fix=f"connprobe {name} -- COMMAND, or --server NAME, --target or --pid"
        )
    if not starts and repeat > 1:
        raise UsageError(
            f"--repeat {repeat} needs a fresh server each time", fix="connprobe limit -- COMMAND starts it"
        )
    for word in command or ():
        if not is_utf8(word):
            raise UsageError(
                f"{word!r} of the command is not UTF-8, as which run.json has to hold it",
                fix="start it from a script, and name that",
            )
    if command and shutil.which(command[0]) is None:
        there = Path(command[0]).exists() and "/" in command[0]
        raise UsageError(
            f"{command[0]}: {'it cannot be executed' if there else 'there is no such program'}",
            fix=f"chmod +x {command[0]}, or name its interpreter" if there else "check the name, and PATH",
        )


def is_utf8(text: str) -> bool:
    """Whether an argument was UTF-8: bytes that are not come as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
