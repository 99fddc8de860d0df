"""`connprobe hold`: open connections, keep them, and say how many are alive at the end."""

from pathlib import Path
from typing import Annotated

import typer

from connprobe.commands.options import (
    AliasOption,
    CaOption,
    ConcurrencyOption,
    DryRunOption,
    HeaderOption,
    HttpModeName,
    HttpModeOption,
    InsecureOption,
    JsonOption,
    NoBpfOption,
    PathOption,
    PidOption,
    ProtocolName,
    ProtocolOption,
    RateOption,
    ResultsOption,
    SniOption,
    SourcePortsOption,
    SourcesOption,
    SysctlOption,
    TargetOption,
    TimeoutOption,
    TlsOption,
    TlsResumeOption,
    WorkersOption,
    hold_request,
    tls_request,
)
from connprobe.commands.output import finish, stderr, stdout
from connprobe.errors import UsageError

EXAMPLES = """
Examples:

  connprobe hold --count 20000 --for 10s

      20,000 WebSocket connections to an embedded server on loopback.

  connprobe hold --target host:8080 --count 400000 --path /ws

  connprobe hold --target host:443 --tls --count 50000 --rate 500 --ping 30s

  connprobe hold --target 10.0.0.1:80 --count 200000 --alias eth0:10.0.0.32/28

      adds as many of these addresses as the plan needs, and removes them at the end.

  connprobe hold --target host:80 --count 60000 --sysctl auto

      raises the sysctls that the plan needs, here the range of source ports, and puts them back.

  connprobe hold --target host:8080 --count 400000 --dry-run

      prints the plan, or every obstacle with the command that lifts it.
"""


def hold(
    target: TargetOption = None,
    count: Annotated[int, typer.Option(help="Connections to hold.")] = 10_000,
    protocol: ProtocolOption = ProtocolName.ws,
    http_mode: HttpModeOption = HttpModeName.keepalive,
    path: PathOption = "/",
    header: HeaderOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    sni: SniOption = None,
    tls_resume: TlsResumeOption = False,
    rate: RateOption = None,
    concurrency: ConcurrencyOption = 1000,
    hold_for: Annotated[
        str, typer.Option("--for", help="How long to hold once all are open: 60s, 5m.")
    ] = "60s",
    timeout: TimeoutOption = "30s",
    ping: Annotated[
        str | None, typer.Option(help="Ping each WebSocket at this interval and check its pong.")
    ] = None,
    workers: WorkersOption = "auto",
    sources: SourcesOption = "auto",
    source_ports: SourcePortsOption = None,
    alias: AliasOption = None,
    sysctl: SysctlOption = None,
    reconnect: Annotated[
        bool, typer.Option("--reconnect", help="Reopen what is lost, with exponential back-off.")
    ] = False,
    reconnect_attempts: Annotated[int, typer.Option(help="Attempts for each lost connection.")] = 10,
    pid: PidOption = None,
    no_bpf: NoBpfOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    results: ResultsOption = Path("results"),
    fail_under: Annotated[
        int | None, typer.Option(help="Exit 4 when fewer are held at the end. Default: the count.")
    ] = None,
) -> None:
    """Open COUNT real connections, hold them, and report how many are alive at the end."""
    from connprobe.session.run import run_hold

    request = hold_request(
        target=target,
        count=count,
        protocol=protocol.value,
        http_mode=http_mode.value,
        path=path,
        header=header,
        tls=tls_request(tls, ca, insecure, sni, tls_resume),
        rate=rate,
        concurrency=concurrency,
        hold_for=hold_for,
        timeout=timeout,
        ping=ping,
        workers=workers,
        sources=sources,
        source_ports=source_ports,
        alias=alias,
        sysctl=sysctl,
        reconnect=reconnect,
        reconnect_attempts=reconnect_attempts,
        pid=pid,
        no_bpf=no_bpf,
        fail_under=fail_under,
    )
    if request.target is None and request.http_mode == "longpoll":
        raise UsageError(
            "--http-mode longpoll is for a server that does not answer, and the embedded one does",
            fix="--target HOST:PORT, or --http-mode stream",
        )
    finish(run_hold(request, results, stdout(), stderr(), dry_run=dry_run, json=json))
