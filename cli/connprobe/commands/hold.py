"""`connprobe hold`: open connections, keep them, and say how many are alive at the end."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from connprobe.commands.output import finish, stderr, stdout
from connprobe.errors import UsageError
from connprobe.model import HoldRequest, TlsRequest
from connprobe.plan.addresses import parse_addresses
from connprobe.plan.parse import (
    parse_alias,
    parse_count_or_auto,
    parse_duration,
    parse_header,
    parse_ports,
    parse_target,
)


class ProtocolName(StrEnum):
    tcp = "tcp"
    http = "http"
    ws = "ws"


class HttpModeName(StrEnum):
    keepalive = "keepalive"
    stream = "stream"
    longpoll = "longpoll"


LARGEST_COUNT = 10**12
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
    target: Annotated[
        str | None,
        typer.Option(help="HOST:PORT, [IPv6]:PORT or a name. Without it: an embedded server on loopback."),
    ] = None,
    count: Annotated[int, typer.Option(help="Connections to hold.")] = 10_000,
    protocol: Annotated[ProtocolName, typer.Option(help="What is spoken.")] = ProtocolName.ws,
    http_mode: Annotated[
        HttpModeName,
        typer.Option(
            help="keepalive: the response is read, the connection stays idle. stream: the response stays "
            "open (SSE). longpoll: the request is sent and no answer is expected."
        ),
    ] = HttpModeName.keepalive,
    path: Annotated[str, typer.Option(help="Path of the request.")] = "/",
    header: Annotated[list[str] | None, typer.Option(help="'Name: value', repeatable.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS.")] = False,
    ca: Annotated[Path | None, typer.Option(help="PEM file of the authorities to trust.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not check the certificate.")] = False,
    sni: Annotated[str | None, typer.Option(help="Server name of the TLS handshake and its check.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Connections opened a second. Without it: as fast as it goes.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Handshakes in flight at once, over all workers.")] = 1000,
    hold_for: Annotated[
        str, typer.Option("--for", help="How long to hold once all are open: 60s, 5m.")
    ] = "60s",
    timeout: Annotated[str, typer.Option(help="For each handshake, and for each pong.")] = "30s",
    ping: Annotated[
        str | None, typer.Option(help="Ping each WebSocket at this interval and check its pong.")
    ] = None,
    workers: Annotated[str, typer.Option(help="Processes, or auto: as RLIMIT_NOFILE asks for.")] = "auto",
    sources: Annotated[str, typer.Option(help="Source addresses: auto, a list, a range or a CIDR.")] = "auto",
    source_ports: Annotated[
        str | None,
        typer.Option(help="LO-HI: source ports beyond ip_local_port_range, for our sockets alone."),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(help="IFACE:CIDR: add source addresses for the run, and remove them at its end."),
    ] = None,
    sysctl: Annotated[
        list[str] | None,
        typer.Option(
            help="PROFILE, a path, or auto (what the plan needs), repeatable: sysctls raised for the run "
            "and put back at its end. Never lowers one."
        ),
    ] = None,
    reconnect: Annotated[
        bool, typer.Option("--reconnect", help="Reopen what is lost, with exponential back-off.")
    ] = False,
    reconnect_attempts: Annotated[int, typer.Option(help="Attempts for each lost connection.")] = 10,
    pid: Annotated[
        int | None, typer.Option(help="Process of the server, where it is not found by itself.")
    ] = None,
    no_bpf: Annotated[
        bool,
        typer.Option("--no-bpf", help="No eBPF: watch the kernel by sock_diag and /proc."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and touch nothing.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the run record (or the plan) alone on stdout.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Directory that runs are written to.")] = Path("results"),
    fail_under: Annotated[
        int | None, typer.Option(help="Exit 4 when fewer are held at the end. Default: the count.")
    ] = None,
) -> None:
    """Open COUNT real connections, hold them, and report how many are alive at the end."""
    from connprobe.session.run import run_hold

    interface, extra = parse_alias(alias) if alias is not None else (None, None)
    request = HoldRequest(
        target=target,
        count=_between(count, 1, LARGEST_COUNT, "--count"),
        protocol=protocol.value,
        http_mode=http_mode.value,
        path=path,
        headers=tuple(parse_header(text) for text in header or ()),
        tls=_tls(tls, ca, insecure, sni),
        rate_per_s=rate,
        concurrency=_between(concurrency, 1, 1_000_000, "--concurrency"),
        hold_s=parse_duration(hold_for, "--for"),
        timeout_s=max(0.001, parse_duration(timeout, "--timeout")),
        ping_s=parse_duration(ping, "--ping") if ping is not None else None,
        workers=parse_count_or_auto(workers, "--workers"),
        sources=None if sources == "auto" else parse_addresses(sources),
        source_ports=parse_ports(source_ports) if source_ports is not None else None,
        alias_interface=interface,
        alias_addresses=parse_addresses(extra) if extra is not None else (),
        sysctls=tuple(sysctl or ()),
        reconnect=reconnect,
        reconnect_attempts=_between(reconnect_attempts, 1, 1000, "--reconnect-attempts"),
        fail_under=None if fail_under is None else _between(fail_under, 0, count, "--fail-under"),
        server_pid=None if pid is None else _process(pid),
        bpf=not no_bpf,
    )
    _check(request)
    finish(run_hold(request, results, stdout(), stderr(), dry_run=dry_run, json=json))


def _between(value: int, low: int, high: int, option: str) -> int:
    if not low <= value <= high:
        raise UsageError(
            f"{option} {value} is not between {low:,} and {high:,}",
            fix=f"{option} {max(low, min(value, high))}",
        )
    return value


def _process(pid: int) -> int:
    if pid < 1 or not Path(f"/proc/{pid}").is_dir():
        raise UsageError(f"--pid {pid}: there is no such process", fix="pgrep -a NAME shows what runs")
    return pid


def _tls(tls: bool, ca: Path | None, insecure: bool, sni: str | None) -> TlsRequest | None:
    if not tls:
        if ca is not None or insecure or sni is not None:
            raise UsageError("--ca, --insecure and --sni are for TLS connections", fix="add --tls")
        return None
    if ca is not None and not ca.is_file():
        raise UsageError(f"--ca {ca}: there is no such file", fix="--ca FILE.pem, or --insecure")
    if ca is not None:
        import ssl

        try:
            ssl.create_default_context(cafile=str(ca))
        except OSError as error:  # ssl.SSLError is one
            reason = getattr(error, "reason", None) or error.strerror
            raise UsageError(f"--ca {ca} holds no certificate: {reason}", fix="--ca FILE.pem") from error
    if sni is not None:
        import ssl

        try:
            ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=sni)
        except ValueError as error:
            raise UsageError(f"--sni {sni!r}: {error}", fix="--sni www.example.org") from error
    return TlsRequest(ca=None if ca is None else str(ca.resolve()), insecure=insecure, server_name=sni)


def _check(request: HoldRequest) -> None:
    """What no option alone can tell."""
    if request.rate_per_s is not None and not 0 < request.rate_per_s < 1e9:
        raise UsageError(f"--rate {request.rate_per_s:g} is not a positive number", fix="--rate 500")
    if request.ping_s is not None and (request.protocol != "ws" or request.ping_s < 0.1):
        raise UsageError("--ping is for WebSocket, at 100ms or more", fix="--protocol ws --ping 30s")
    if request.protocol == "ws" and any(name.lower() == "sec-websocket-key" for name, _ in request.headers):
        raise UsageError("--header Sec-WebSocket-Key: each connection makes its own", fix="leave it out")
    if request.http_mode != "keepalive" and request.protocol != "http":
        raise UsageError(f"--http-mode {request.http_mode} is for HTTP", fix="--protocol http")
    if not request.path.startswith("/") or any(ord(c) <= 32 or ord(c) > 126 for c in request.path):
        raise UsageError(
            f"--path {request.path!r} is not a path", fix="--path /ws, percent-encoded where needed"
        )
    if request.target is not None:
        parse_target(request.target)
