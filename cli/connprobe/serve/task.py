"""What one process of the embedded server is told: plain values, since they travel by marshal."""

from typing import NamedTuple


class Task(NamedTuple):
    family: int
    address: tuple[str | int, ...]  # the sockaddr to listen on
    protocol: str  # tcp, http, ws
    mode: str  # idle, echo, stream
    backlog: int
    place: int  # among the listeners, in the order in which they begin
    listeners: int
    at_a_time: int  # to so many of them connections go
    room: int  # connections that a process may have
    certificate: str | None  # PEM files; None: no TLS
    key: str | None


LISTENING = 0  # the port, once this process listens
ACCEPTED = 1
OPEN = 2
FAILED = 3  # handshakes that did not become a connection
SHED = 4  # times accepting stopped for want of a descriptor
COLUMNS = 5
