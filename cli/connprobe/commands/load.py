"""`connprobe load`: connections that come, say their messages and go, and how long all of that takes."""

import os
from pathlib import Path
from typing import Annotated

import typer

from connprobe.commands import options
from connprobe.commands.output import finish, stderr, stdout
from connprobe.errors import UsageError
from connprobe.model import LoadRequest
from connprobe.plan.message import LARGEST, check_size, parse_message
from connprobe.plan.parse import parse_duration
from connprobe.plan.threshold import parse_threshold

COUNT, MESSAGE = 10_000, "32B"
MOST_MESSAGES = 1_000_000
EXAMPLES = """
Examples:

  connprobe load --count 10000

      10,000 WebSocket connections, 100 at once, to an embedded echo server: each sends a message, gets it
      back and closes.

  connprobe load --target host:8080 --path /echo --count 30000 --messages 10 --message 1kB

  connprobe load --target host:8080 --rate 500 --duration 60s

      an open loop: 500 begin each second, whatever became of the others, and their latency counts from the
      moment they should have begun.

  connprobe load --target host:443 --tls --threshold 'handshake.p99<50ms' --threshold 'failed<0.1%'

      exits 4 when one is missed.

  connprobe load --target host:80 --protocol http --messages 20 --json | jq .message_ms

      20 more requests on each connection after the first.
"""


def load(
    target: options.TargetOption = None,
    count: Annotated[
        int | None,
        typer.Option(
            help="Connections in all. Default: 10,000, or with --duration as many as it has time for."
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(help="Connections open at once, from connect to close, over all workers.")
    ] = 100,
    messages: Annotated[int, typer.Option(help="On each connection, one after another.")] = 1,
    message: Annotated[
        str | None,
        typer.Option(
            help="A text, @FILE, or a size such as 1kB: what each message is, and its echo has to be. "
            "Default: 32 bytes of UTF-8."
        ),
    ] = None,
    duration: Annotated[
        str | None, typer.Option(help="How long connections begin: 60s, 5m. Those under way end as they do.")
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            help="METRIC<VALUE, repeatable; exit 4 when missed: handshake.p99<50ms, message.mean<2ms, "
            "total<60s, connections_per_s>2000, failed<1%, wrong<1. Without one on them, none may fail and "
            "no echo be wrong."
        ),
    ] = None,
    protocol: options.ProtocolOption = options.ProtocolName.ws,
    path: options.PathOption = "/",
    header: options.HeaderOption = None,
    tls: options.TlsOption = False,
    ca: options.CaOption = None,
    insecure: options.InsecureOption = False,
    sni: options.SniOption = None,
    tls_resume: options.TlsResumeOption = False,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Connections begun a second, whatever became of the others. Without it: each begins as soon "
            "as there is room."
        ),
    ] = None,
    timeout: Annotated[str, typer.Option(help="For each handshake, each answer and each close.")] = "30s",
    workers: Annotated[str, typer.Option(help="Processes, or auto: as the concurrency asks for.")] = "auto",
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
    """Open COUNT connections, a few at once: each sends messages, checks their echoes, and closes."""
    from connprobe.session.run import run_load

    if protocol == options.ProtocolName.http and message is not None:
        raise UsageError(
            "--message is for WebSocket and TCP: with HTTP a message is the request once more",
            fix="leave it out, or --protocol ws",
        )
    if protocol == options.ProtocolName.http:
        message, payload = "the request once more", b""
    else:
        message = MESSAGE if message is None else message
        payload = _payload(message)
        message = os.fsencode(message).decode(errors="replace")  # as it is told of
    request = options.hold_request(
        target=target,
        count=COUNT if count is None else count,
        protocol=protocol.value,
        path=path,
        header=header,
        tls=options.tls_request(tls, ca, insecure, sni, tls_resume),
        rate=rate,
        concurrency=concurrency,
        timeout=timeout,
        workers=workers,
        sources=sources,
        source_ports=source_ports,
        alias=alias,
        sysctl=sysctl,
        pid=pid,
        no_bpf=no_bpf,
    )
    asked = LoadRequest(
        messages=options.between(messages, 0, MOST_MESSAGES, "--messages"),
        message=message if len(message) <= 100 else f"{message[:100]}…",
        message_bytes=len(payload),
        duration_s=None if duration is None else _duration(duration),
        counted=count is not None or duration is None,
        thresholds=tuple(parse_threshold(text).text for text in threshold or ()),
    )
    finish(run_load(request, asked, payload, results, stdout(), stderr(), dry_run=dry_run, json=json))


def _duration(text: str) -> float:
    seconds = parse_duration(text, "--duration")
    if seconds < 0.1:
        raise UsageError(f"--duration {text} is shorter than 100ms", fix="--duration 10s")
    return seconds


def _payload(text: str) -> bytes:
    """The bytes of a message. Raises UsageError."""
    if not text.startswith("@"):
        return parse_message(text)
    try:
        with Path(text[1:]).open("rb") as file:
            payload = file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(
            f"--message {text}: {error.strerror}", fix="--message @FILE, or --message 1kB"
        ) from error
    check_size(len(payload), text)
    return payload
