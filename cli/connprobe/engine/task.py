"""What one worker is told: plain values, since they travel by marshal into a lean process."""

from typing import Any, NamedTuple


class TlsTask(NamedTuple):
    ca_file: str | None
    verify: bool
    server_name: str | None
    resume: bool = False  # take up the session of the last connection, where the server gave a ticket for it


class VisitsTask(NamedTuple):
    """What each connection does once it is open, before it closes and makes room for the next."""

    messages: int
    payload: bytes
    for_s: float  # how long connections begin; 0: as long as there are any to begin
    varied: bool = False  # each message of a connection is another one: see engine.talk.Echo


class Task(NamedTuple):
    """One worker's share of a run."""

    share: int  # connections to open, at most
    goal: int  # of them at once; the rest when told so, or from the stock
    family: int  # socket.AF_INET or AF_INET6
    target: tuple[str | int, ...]  # the sockaddr
    # (address, connections from it, first port, (low, high, step)); "", 0 and None: the kernel chooses
    sources: tuple[tuple[str, int, int, tuple[int, int, int] | None], ...]
    protocol: str
    http_mode: str
    host: str  # the Host header
    path: str
    headers: tuple[tuple[str, str], ...]
    concurrency: int  # of this worker
    interval_s: float  # between two connections begun; 0: as fast as concurrency allows
    delay_s: float  # before the first, so that rated workers do not beat in step
    timeout_s: float
    ping_s: float  # 0: no pings
    reconnect_attempts: int  # 0: a lost connection stays lost
    # The fields of a TlsTask and of a VisitsTask: marshal takes no class of our own.
    tls: tuple[Any, ...] | None
    visits: tuple[Any, ...] | None = None  # None: connections are held
    stock: int = -1  # descriptor of what may be opened beyond the goal: see engine.stock
    bursts: bool = False  # whether io_uring may open them, and read their first answers
