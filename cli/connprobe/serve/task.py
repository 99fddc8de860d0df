"""What one process of the embedded server is told: plain values, since they travel by marshal."""

from typing import NamedTuple


class Task(NamedTuple):
    family: int
    address: tuple[str | int, ...]  # the sockaddr to listen on
    protocol: str  # tcp, http, ws
    mode: str  # idle, echo, stream
    backlog: int
    steers: int  # so many listeners, of which this is one; 0: none, or another does
    certificate: str | None  # PEM files; None: no TLS
    key: str | None


LISTENING = 0  # the port, once this process listens
ACCEPTED = 1
OPEN = 2
FAILED = 3  # handshakes that did not become a connection
SHED = 4  # times accepting stopped for want of a descriptor
COLUMNS = 5
