"""`connprobe watch`: accept queues, memory and CPU of a server, while somebody else makes the load."""

from pathlib import Path
from typing import Annotated

import typer

from connprobe.commands.options import NoBpfOption, process
from connprobe.commands.output import finish, stderr, stdout
from connprobe.errors import UsageError
from connprobe.plan.parse import parse_duration

EXAMPLES = """
Examples:

  connprobe watch --port 8080

  connprobe watch --pid 4242 --for 5m --results results

  connprobe watch --port 443 --json | jq '.kernel.queues[].overflows'
"""


def watch(
    port: Annotated[int | None, typer.Option(help="Listeners on this port.")] = None,
    pid: Annotated[
        int | None, typer.Option(help="Listeners of this process, in its network namespace.")
    ] = None,
    watch_for: Annotated[
        str | None, typer.Option("--for", help="How long. Without it: until Ctrl-C.")
    ] = None,
    interval: Annotated[str, typer.Option(help="Between two readings.")] = "1s",
    no_bpf: NoBpfOption = False,
    system_calls: Annotated[
        bool,
        typer.Option(
            "--system-calls", help="Their time too, by eBPF: slows every system call of the machine a little."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each reading.")] = False,
    results: Annotated[Path | None, typer.Option(help="Directory to write the readings to.")] = None,
) -> None:
    """Watch the accept queues, memory and CPU of a server. Changes nothing, and says what it takes itself."""
    from connprobe.session.watching.watch import run_watch

    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"--port {port} is not between 1 and 65,535", fix="--port 8080")
    interval_s = parse_duration(interval, "--interval")
    if interval_s < 0.1:
        raise UsageError(f"--interval {interval} is shorter than 100ms", fix="--interval 1s")
    for_s = float("inf") if watch_for is None else parse_duration(watch_for, "--for")
    finish(
        run_watch(
            port,
            process(pid),
            stdout(),
            stderr(),
            bpf=not no_bpf,
            system_calls=system_calls,
            interval_s=interval_s,
            for_s=for_s,
            json=json,
            results=results,
        )
    )
