"""Options that several commands share: their names and help as types, and what is checked of their values."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from connprobe.errors import UsageError
from connprobe.model import HoldRequest, HttpMode, Protocol, TlsRequest
from connprobe.plan.addresses import parse_addresses
from connprobe.plan.parse import (
    parse_alias,
    parse_count_or_auto,
    parse_duration,
    parse_header,
    parse_ports,
    parse_target,
)

LARGEST_COUNT = 10**12
LARGEST_CONCURRENCY = 1_000_000


class ProtocolName(StrEnum):
    tcp = "tcp"
    http = "http"
    ws = "ws"


class HttpModeName(StrEnum):
    keepalive = "keepalive"
    stream = "stream"
    longpoll = "longpoll"


TargetOption = Annotated[
    str | None,
    typer.Option(help="HOST:PORT, [IPv6]:PORT or a name. Without it: an embedded server on loopback."),
]
ProtocolOption = Annotated[ProtocolName, typer.Option(help="What is spoken.")]
HttpModeOption = Annotated[
    HttpModeName,
    typer.Option(
        help="keepalive: the response is read, the connection stays idle. stream: the response stays "
        "open (SSE). longpoll: the request is sent and no answer is expected."
    ),
]
PathOption = Annotated[str, typer.Option(help="Path of the request.")]
HeaderOption = Annotated[list[str] | None, typer.Option(help="'Name: value', repeatable.")]
TlsOption = Annotated[bool, typer.Option("--tls", help="Speak TLS.")]
CaOption = Annotated[Path | None, typer.Option(help="PEM file of the authorities to trust.")]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Do not check the certificate.")]
SniOption = Annotated[str | None, typer.Option(help="Server name of the TLS handshake and its check.")]
TlsResumeOption = Annotated[
    bool,
    typer.Option(
        "--tls-resume", help="Take up earlier TLS sessions. Without it each handshake is a full one."
    ),
]
RateOption = Annotated[
    float | None, typer.Option(help="Connections opened a second. Without it: as fast as it goes.")
]
ConcurrencyOption = Annotated[int, typer.Option(help="Handshakes in flight at once, over all workers.")]
TimeoutOption = Annotated[str, typer.Option(help="For each handshake, and for each pong.")]
WorkersOption = Annotated[
    str,
    typer.Option(help="Processes, or auto: as many workers as RLIMIT_NOFILE asks for, beyond 8 as threads."),
]
SourcesOption = Annotated[str, typer.Option(help="Source addresses: auto, a list, a range or a CIDR.")]
SourcePortsOption = Annotated[
    str | None,
    typer.Option(help="LO-HI: source ports beyond ip_local_port_range, for our sockets alone."),
]
AliasOption = Annotated[
    str | None,
    typer.Option(help="IFACE:CIDR: add source addresses for the run, and remove them at its end."),
]
SysctlOption = Annotated[
    list[str] | None,
    typer.Option(
        help="PROFILE, a path, or auto (what the plan needs), repeatable: sysctls raised for the run "
        "and put back at its end. Never lowers one."
    ),
]
PidOption = Annotated[
    int | None, typer.Option(help="Process of the server, where it is not found by itself.")
]
NoBpfOption = Annotated[
    bool, typer.Option("--no-bpf", help="No eBPF: watch the kernel by sock_diag and /proc.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and touch nothing.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the run record (or the plan) alone on stdout.")
]
ResultsOption = Annotated[Path, typer.Option(help="Directory that runs are written to.")]


def between(value: int, low: int, high: int, option: str) -> int:
    """`value` itself. Raises UsageError."""
    if not low <= value <= high:
        raise UsageError(
            f"{option} {value} is not between {low:,} and {high:,}",
            fix=f"{option} {max(low, min(value, high))}",
        )
    return value


def check_path(path: str, option: str, *, fix: str) -> None:
    """Raises UsageError where it cannot stand in a request."""
    if not path.startswith("/") or any(ord(char) <= 32 or ord(char) > 126 for char in path):
        raise UsageError(f"{option} {path!r} is not a path", fix=fix)


def process(pid: int | None) -> int | None:
    """`pid` itself, where it is given and runs. Raises UsageError."""
    if pid is not None and (pid < 1 or not Path(f"/proc/{pid}").is_dir()):
        raise UsageError(f"--pid {pid}: there is no such process", fix="pgrep -a NAME shows what runs")
    return pid


def hold_request(
    *,
    target: str | None,
    count: int,
    protocol: Protocol,
    http_mode: HttpMode = "keepalive",
    path: str,
    header: list[str] | None,
    tls: TlsRequest | None,
    rate: float | None,
    concurrency: int,
    hold_for: str | None = None,
    timeout: str,
    ping: str | None = None,
    workers: str,
    sources: str,
    source_ports: str | None,
    alias: str | None,
    sysctl: list[str] | None,
    reconnect: bool = False,
    reconnect_attempts: int = 10,
    pid: int | None,
    no_bpf: bool,
    fail_under: int | None = None,
) -> HoldRequest:
    """What a command was asked for. hold_for: None: connections do not stay. Raises UsageError."""
    interface, extra = parse_alias(alias) if alias is not None else (None, None)
    request = HoldRequest(
        target=target,
        count=between(count, 1, LARGEST_COUNT, "--count"),
        protocol=protocol,
        http_mode=http_mode,
        path=path,
        headers=tuple(parse_header(text) for text in header or ()),
        tls=tls,
        rate_per_s=rate,
        concurrency=between(concurrency, 1, LARGEST_CONCURRENCY, "--concurrency"),
        hold_s=parse_duration(hold_for, "--for") if hold_for is not None else 0.0,
        timeout_s=max(0.001, parse_duration(timeout, "--timeout")),
        ping_s=parse_duration(ping, "--ping") if ping is not None else None,
        workers=parse_count_or_auto(workers, "--workers"),
        sources=None if sources == "auto" else parse_addresses(sources),
        source_ports=parse_ports(source_ports) if source_ports is not None else None,
        alias_interface=interface,
        alias_addresses=parse_addresses(extra) if extra is not None else (),
        sysctls=tuple(sysctl or ()),
        reconnect=reconnect,
        reconnect_attempts=between(reconnect_attempts, 1, 1000, "--reconnect-attempts"),
        fail_under=None if fail_under is None else between(fail_under, 0, count, "--fail-under"),
        server_pid=process(pid),
        bpf=not no_bpf,
    )
    _check_request(request)
    return request


def tls_request(
    tls: bool, ca: Path | None, insecure: bool, sni: str | None, resume: bool = False
) -> TlsRequest | None:
    """What --tls and its companions ask for; None: no TLS. Raises UsageError."""
    if not tls:
        if ca is not None or insecure or sni is not None or resume:
            raise UsageError(
                "--ca, --insecure, --sni and --tls-resume are for TLS connections", fix="add --tls"
            )
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
    return TlsRequest(
        ca=None if ca is None else str(ca.resolve()), insecure=insecure, server_name=sni, resume=resume
    )


def _check_request(request: HoldRequest) -> None:
    """What no option alone can tell. Raises UsageError."""
    if request.rate_per_s is not None and not 0 < request.rate_per_s < 1e9:
        raise UsageError(f"--rate {request.rate_per_s:g} is not a positive number", fix="--rate 500")
    if request.ping_s is not None and (request.protocol != "ws" or request.ping_s < 0.1):
        raise UsageError("--ping is for WebSocket, at 100ms or more", fix="--protocol ws --ping 30s")
    if request.protocol == "ws" and any(name.lower() == "sec-websocket-key" for name, _ in request.headers):
        raise UsageError("--header Sec-WebSocket-Key: each connection makes its own", fix="leave it out")
    if request.http_mode != "keepalive" and request.protocol != "http":
        raise UsageError(f"--http-mode {request.http_mode} is for HTTP", fix="--protocol http")
    check_path(request.path, "--path", fix="--path /ws, percent-encoded where needed")
    if request.target is not None:
        parse_target(request.target)
