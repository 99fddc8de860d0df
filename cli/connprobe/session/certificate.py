"""The certificate of a comparison: for this host's loopback, of this run, trusted by nobody else."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from connprobe.errors import RunFailed
from connprobe.store import files
from connprobe.targets import find_program

OPENSSL = "openssl"
DAYS = 30
_TAKES_S = 30.0


class Certificate(NamedTuple):
    """PEM files. both: the certificate, then its key, as HAProxy and hitch want it."""

    certificate: Path
    key: Path
    both: Path

    def remove(self) -> None:
        for file in self:
            file.unlink(missing_ok=True)


def openssl() -> str | None:
    return find_program(OPENSSL)


def make_certificate(directory: Path) -> Certificate:
    """EC P-256 for 127.0.0.1 and localhost, self-signed, 0600, in `directory` (0700). Raises RunFailed."""
    program = openssl()
    if program is None:
        raise RunFailed("a certificate needs openssl, which is not installed", fix="apt-get install openssl")
    # nginx takes a relative path for one below its own directory.
    directory = directory.absolute()
    made = Certificate(*(directory / f"{it}.pem" for it in ("cert", "key", "both")))
    command = [
        *(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-sha256", "-days", str(DAYS), "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        *("-keyout", str(made.key), "-out", str(made.certificate)),
    ]
    try:
        files.private_directory(directory)
        made.remove()
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TAKES_S,
            check=False,
            umask=0o077,
        )
        if ran.returncode:
            last = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise RunFailed(
                f"openssl made no certificate: {last}", fix=f"try it by hand: {' '.join(command)}"
            )
        with files.directory(directory) as fd:
            files.replace_file(
                made.both.name, made.certificate.read_bytes() + made.key.read_bytes(), fd, mode=0o600
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunFailed(f"no certificate was made: {error}") from error
    return made
