"""`connprobe limit`: how many connections a server can hold, what stops it first, and what lifts that."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

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
    is_utf8,
    settings,
)
from connprobe.errors import UsageError
from connprobe.model import LimitRequest
from connprobe.plan.parse import parse_duration, parse_size

LONGEST_MESSAGE = 65_000  # bytes: workers are told of it in one packet of 64 KiB


class MessageBy(StrEnum):
    client = "client"
    server = "server"
    none = "none"


EXAMPLES = """
Examples:

  connprobe limit --count 4000 -- node server.js 8080

      starts the server, waits until it listens, opens 4,000 connections in five steps, and says at how many
      it would stop, and why.

  connprobe limit --server node-array --set heap_mb=80 --verify

      a reference server; goes on until it breaks, and puts prediction and truth side by side.

  connprobe limit --target 127.0.0.1:8080 --protocol http --count 5000

      attaches to a server that runs already on this host.

  connprobe limit --repeat 10 --heap-limit 1.7GB --message-by server -- ./broadcaster

      ten trials, each on a fresh server: means with their 95 % intervals.
"""


def limit(
    command: CommandArgument = None,
    server: ServerOption = None,
    set_option: SetOption = None,
    port: PortOption = None,
    target: RunningOption = None,
    count: Annotated[int, typer.Option(help="Connections to measure with.")] = 4000,
    steps: StepsOption = 5,
    repeat: Annotated[int, typer.Option(help="Trials, each on a fresh server.")] = 1,
    verify: Annotated[
        bool, typer.Option("--verify", help="Go on until it breaks, and compare with what was predicted.")
    ] = False,
    verify_up_to: Annotated[
        int | None,
        typer.Option(help="The most connections of --verify. Without it: up to ten times the count."),
    ] = None,
    latency_limit: Annotated[
        str | None,
        typer.Option(help="With --verify: broken once 99 % of a step's handshakes take longer than this."),
    ] = None,
    message: Annotated[
        str, typer.Option(help="What each connection sends, once: up to 65,000 bytes.")
    ] = "connprobe",
    message_by: Annotated[
        MessageBy | None,
        typer.Option(help="client: it sends, and is answered. server: it sends by itself. none."),
    ] = None,
    message_path: Annotated[
        str | None, typer.Option(help="GET of this path makes the server send its message to all.")
    ] = None,
    heap_limit: HeapLimitOption = None,
    inspect: Annotated[
        bool,
        typer.Option("--inspect", help="Open the inspector of a Node server that runs already, for a while."),
    ] = False,
    startup: StartupOption = "60s",
    settle: SettleOption = "30s",
    idle_for: Annotated[str, typer.Option("--for", help="How long the idle stage lasts.")] = "5s",
    protocol: Annotated[
        options.ProtocolName | None, typer.Option(help="What is spoken. Without it: ws, or the server's.")
    ] = None,
    http_mode: Annotated[
        options.HttpModeName | None,
        typer.Option(help="keepalive, stream or longpoll, as of connprobe hold."),
    ] = None,
    path: options.PathOption = "/",
    header: options.HeaderOption = None,
    tls: options.TlsOption = False,
    ca: options.CaOption = None,
    insecure: options.InsecureOption = False,
    sni: options.SniOption = None,
    tls_resume: options.TlsResumeOption = False,
    rate: options.RateOption = None,
    concurrency: options.ConcurrencyOption = 1000,
    timeout: options.TimeoutOption = "30s",
    workers: options.WorkersOption = "auto",
    sources: options.SourcesOption = "auto",
    source_ports: options.SourcePortsOption = None,
    alias: options.AliasOption = None,
    sysctl: options.SysctlOption = None,
    pid: options.PidOption = None,
    no_bpf: options.NoBpfOption = False,
    dry_run: options.DryRunOption = False,
    json: options.JsonOption = False,
    results: options.ResultsOption = Path("results"),
) -> None:
    """Measure what a connection costs a server, and say at how many it stops, what stops it, and the fix."""
    from connprobe.session.limits.limit import reference, run_limit

    check_server(command, server, target, pid, port, repeat, set_option)
    own = None
    if server is not None:
        own, address, free = reference(server, settings(set_option))
        port = port if port is not None else free
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    request = options.hold_request(
        target=target,
        count=count,
        protocol=protocol.value if protocol is not None else own.protocol if own else "ws",
        http_mode=http_mode.value if http_mode is not None else own.http_mode if own else "keepalive",
        path=path,
        header=header,
        tls=options.tls_request(tls, ca, insecure, sni, tls_resume),
        rate=rate,
        concurrency=concurrency,
        hold_for=idle_for,
        timeout=timeout,
        workers=workers,
        sources=sources,
        source_ports=source_ports,
        alias=alias,
        sysctl=sysctl,
        pid=pid,
        no_bpf=no_bpf,
    )
    _check_messages(message, message_by, message_path)
    if verify_up_to is not None and not verify:
        raise UsageError("--verify-up-to is for --verify", fix="add --verify")
    if latency_limit is not None and not verify:
        raise UsageError("--latency-limit is for --verify", fix="add --verify")
    if inspect and (command or server is not None):
        raise UsageError(
            "--inspect is for a server that runs already: one that connprobe starts is asked without it",
            fix="leave it out",
        )
    message_path = message_path or (own.message_path if own else None)
    by: Literal["client", "server", "none"] = "server" if message_path else "client"
    if message_by is not None:
        by = message_by.value
    asked = LimitRequest(
        command=tuple(command or ()),
        server=server,
        port=port,
        steps=options.between(steps, 2, 100, "--steps"),
        repeat=options.between(repeat, 1, 1000, "--repeat"),
        message=message,
        message_by=by,
        message_path=message_path,
        verify=verify,
        verify_up_to=None
        if verify_up_to is None
        else options.between(verify_up_to, count, options.LARGEST_COUNT, "--verify-up-to"),
        latency_limit_ms=None
        if latency_limit is None
        else max(0.001, 1000 * parse_duration(latency_limit, "--latency-limit")),
        heap_limit_bytes=None if heap_limit is None else parse_size(heap_limit, "--heap-limit"),
        inspect=inspect,
        startup_s=parse_duration(startup, "--startup"),
        settle_s=max(3.0, parse_duration(settle, "--settle")),
    )
    code = run_limit(
        request, asked, settings(set_option), results, stdout(), stderr(), dry_run=dry_run, json=json
    )
    finish(code)


def _check_messages(message: str, by: MessageBy | None, path: str | None) -> None:
    if not message:
        raise UsageError("--message '' would not be seen to arrive", fix="--message-by none")
    if not is_utf8(message):
        raise UsageError(f"--message {message[:100]!r} is not UTF-8", fix="a text in UTF-8")
    if (size := len(message.encode())) > LONGEST_MESSAGE:
        raise UsageError(
            f"--message is {size:,} bytes long, the longest is {LONGEST_MESSAGE:,}",
            fix="a shorter one; connprobe load sends longer ones",
        )
    if path is None:
        return
    if by in (MessageBy.client, MessageBy.none):
        raise UsageError(f"--message-path is for --message-by server, not {by}", fix="leave one of them out")
    options.check_path(path, "--message-path", fix="--message-path /message")
