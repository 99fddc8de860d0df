"""`connprobe serve`: the embedded server on its own, as a target for anything."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from connprobe.commands.options import ProtocolName, ProtocolOption
from connprobe.commands.output import finish, stderr
from connprobe.errors import UsageError
from connprobe.plan.parse import parse_count_or_auto, parse_target


class ModeName(StrEnum):
    idle = "idle"
    echo = "echo"
    stream = "stream"


def serve(
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT.")] = "127.0.0.1:8080",
    protocol: ProtocolOption = ProtocolName.ws,
    mode: Annotated[
        ModeName,
        typer.Option(
            help="idle: answers handshakes and pings. echo: sends back what it gets. stream: opens a stream."
        ),
    ] = ModeName.idle,
    processes: Annotated[str, typer.Option(help="Processes, or auto: for --count connections.")] = "auto",
    count: Annotated[int, typer.Option(help="Connections to have room for, with --processes auto.")] = 10_000,
    backlog: Annotated[int, typer.Option(help="Of listen(2), capped by net.core.somaxconn.")] = 65535,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; needs --cert.")] = False,
    cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate chain.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its key, where it is not in --cert.")] = None,
) -> None:
    """Serve idle connections by the hundred thousand: one epoll loop a process, a byte a connection."""
    from connprobe.session.serve import serve_until_told

    if tls and cert is None:
        raise UsageError("--tls needs a certificate", fix="--cert FILE.pem --key FILE.pem")
    for option, file in (("--cert", cert), ("--key", key)):
        if file is not None and not file.is_file():
            raise UsageError(f"{option} {file}: there is no such file", fix=f"{option} FILE.pem")
        if file is not None and not tls:
            raise UsageError(f"{option} without --tls", fix="add --tls")
    if cert is not None:
        _check_certificate(cert, key)
    if backlog < 1 or count < 1:
        raise UsageError("--backlog and --count are positive numbers", fix="--backlog 65535")
    address, port = parse_target(listen, "--listen")
    finish(
        serve_until_told(
            address,
            port,
            parse_count_or_auto(processes, "--processes"),
            count,
            stderr(),
            protocol=protocol.value,
            mode=mode.value,
            backlog=backlog,
            certificate=str(cert) if cert else None,
            key=str(key) if key else None,
        )
    )


def _check_certificate(cert: Path, key: Path | None) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror
        raise UsageError(
            f"--cert {cert} and its key cannot be used: {reason}",
            fix="--cert FILE.pem --key FILE.pem, both readable and not encrypted",
        ) from error
