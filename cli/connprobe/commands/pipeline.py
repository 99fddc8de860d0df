"""`connprobe pipeline`: what a request costs a server that has not answered it, and how many it bears."""

from pathlib import Path
from typing import Annotated

import typer

from connprobe.commands import options
from connprobe.commands.output import finish, stderr, stdout
from connprobe.commands.serveroptions import (
    CommandArgument,
    HeapLimitOption,
    PortOption,
    RunningOption,
    ServerOption,
    SetOption,
    SettleOption,
    StartupOption,
    StepsOption,
    check_server,
    settings,
)
from connprobe.errors import UsageError
from connprobe.model import PipelineRequest
from connprobe.plan.parse import parse_duration, parse_header, parse_size, parse_target

EXAMPLES = """
Examples:

  connprobe pipeline --server node-pipeline --set heap_mb=200 --verify

      a reference server: 100,000 requests down one connection in five steps, then on until it breaks.

  connprobe pipeline --count 400000 --memory-bound 1GB --path /poll -- node server.js 8080

      starts the server; stops sending once it has 1 GB of RSS.

  connprobe pipeline --target 127.0.0.1:8080 --path /poll --release-path /publish

      attaches to a server that runs already on this host; at the end a GET of /publish, on a second
      connection, makes it answer, and the answers are counted and checked.
"""


def pipeline(
    command: CommandArgument = None,
    server: ServerOption = None,
    set_option: SetOption = None,
    port: PortOption = None,
    target: RunningOption = None,
    count: Annotated[int, typer.Option(help="Requests to measure with.")] = 100_000,
    steps: StepsOption = 5,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second. Without it: as fast as they are read.")
    ] = None,
    path: options.PathOption = "/",
    header: options.HeaderOption = None,
    memory_bound: Annotated[
        str | None,
        typer.Option(help="RSS of the server at which sending stops: 1GB. Without it: half of what is left."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Go on until it breaks or the bound is met, to ten times the count."),
    ] = False,
    release_path: Annotated[
        str | None,
        typer.Option(help="GET of this path, on a second connection, makes the server answer them all."),
    ] = None,
    heap_limit: HeapLimitOption = None,
    startup: StartupOption = "60s",
    settle: SettleOption = "30s",
    timeout: Annotated[
        str, typer.Option(help="For connecting, and for a busy server to read on or to answer.")
    ] = "30s",
    pid: options.PidOption = None,
    dry_run: options.DryRunOption = False,
    json: options.JsonOption = False,
    results: options.ResultsOption = Path("results"),
) -> None:
    """Pipeline requests down one connection to a server that waits, and say what each of them costs it."""
    from connprobe.session.limits.limit import reference
    from connprobe.session.pipelines.pipeline import run_pipeline

    check_server(command, server, target, pid, port, 1, set_option, "pipeline")
    if pid is not None and target is None and port is None:
        raise UsageError("--pid does not say where to connect to", fix="--target HOST:PORT as well")
    own = settings(set_option)
    if server is not None:
        ready, address, free = reference(server, own)
        if ready.protocol != "http":
            raise UsageError(f"the server {server} does not speak HTTP", fix="--server node-pipeline")
        port = port if port is not None else free
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        release_path = release_path or ready.release_path
    if target is not None:
        parse_target(target)
    if rate is not None and not 0 < rate < 1e9:
        raise UsageError(f"--rate {rate:g} is not a positive number", fix="--rate 5000")
    for option, value in (("--path", path), ("--release-path", release_path or "/")):
        options.check_path(value, option, fix=f"{option} /poll, percent-encoded where needed")
    request = PipelineRequest(
        target=target,
        count=options.between(count, 1, options.LARGEST_COUNT, "--count"),
        command=tuple(command or ()),
        server=server,
        port=port,
        server_pid=options.process(pid),
        steps=options.between(steps, 2, 100, "--steps"),
        rate_per_s=rate,
        path=path,
        headers=tuple(parse_header(text) for text in header or ()),
        memory_bound_bytes=None if memory_bound is None else parse_size(memory_bound, "--memory-bound"),
        heap_limit_bytes=None if heap_limit is None else parse_size(heap_limit, "--heap-limit"),
        release_path=release_path,
        verify=verify,
        startup_s=parse_duration(startup, "--startup"),
        settle_s=max(3.0, parse_duration(settle, "--settle")),
        timeout_s=max(0.001, parse_duration(timeout, "--timeout")),
    )
    finish(run_pipeline(request, own, results, stdout(), stderr(), dry_run=dry_run, json=json))
