"""What was asked for, and of whom."""

from typing import Literal

from connprobe.model.base import Record

Protocol = Literal["tcp", "http", "ws"]
HttpMode = Literal["keepalive", "stream", "longpoll"]
ServeMode = Literal["idle", "echo", "stream"]
Family = Literal["ipv4", "ipv6"]
Side = Literal["client", "server", "network"]


class Target(Record, frozen=True):
    """Where connections go: the name as typed, and the address it resolved to."""

    host: str
    address: str
    port: int
    family: Family
    scope_id: int = 0

    @property
    def label(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def scoped_address(self) -> str:
        """As in fe80::1%2."""
        return f"{self.address}%{self.scope_id}" if self.scope_id else self.address


class TlsRequest(Record, frozen=True):
    """How to speak TLS: trust (`ca` file or the system's), or none at all (`insecure`), and the SNI name.

    resume: take up earlier sessions; otherwise each handshake is a full one.
    """

    ca: str | None = None
    insecure: bool = False
    server_name: str | None = None
    resume: bool = False


class HoldRequest(Record, frozen=True):
    """What `connprobe hold` was asked for, as typed."""

    target: str | None  # None: the embedded server
    count: int
    protocol: Protocol = "ws"
    http_mode: HttpMode = "keepalive"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    tls: TlsRequest | None = None
    rate_per_s: float | None = None
    concurrency: int = 1000
    hold_s: float = 60.0
    timeout_s: float = 30.0
    ping_s: float | None = None
    workers: int | None = None  # None: as many as the file descriptor limit asks for
    sources: tuple[str, ...] | None = None  # None: chosen by the plan
    source_ports: tuple[int, int] | None = None  # None: net.ipv4.ip_local_port_range
    alias_interface: str | None = None
    alias_addresses: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()  # profiles, or "auto": what the plan needs
    reconnect: bool = False
    reconnect_attempts: int = 10
    fail_under: int | None = None
    server_pid: int | None = None
    bpf: bool = True  # watch the kernel through eBPF

    @property
    def between_requests(self) -> bool:
        """Whether the connections wait for no answer: some servers close such, for want of room."""
        return self.protocol == "tcp" or (self.protocol == "http" and self.http_mode == "keepalive")

    @property
    def answered(self) -> bool:
        """Nothing is held that the server has not answered."""
        return self.protocol == "ws" or (self.protocol == "http" and self.http_mode != "longpoll")


class LoadRequest(Record, frozen=True):
    """What `connprobe load` was asked for besides the options of `hold`, which stand in a HoldRequest."""

    messages: int = 1  # on each connection, one after another
    message: str = "32B"  # as typed: a text, @FILE, or a size
    message_bytes: int = 32
    duration_s: float | None = None  # how long connections begin; None: until all have
    counted: bool = True  # False: --count was not given, the duration alone is the bound
    thresholds: tuple[str, ...] = ()  # as typed


class LimitRequest(Record, frozen=True):
    """What `connprobe limit` was asked for besides the options of `hold`, which stand in a HoldRequest."""

    command: tuple[str, ...] = ()  # the server to start; empty: one is attached to
    server: str | None = None  # of the reference servers, by name
    port: int | None = None
    steps: int = 5
    repeat: int = 1
    message: str = "connprobe"
    message_by: Literal["client", "server", "none"] = "client"
    message_path: str | None = None  # a GET of it makes the server send its message
    verify: bool = False
    verify_up_to: int | None = None  # connections; None: up to ten times the count, as this host has room
    latency_limit_ms: float | None = None
    heap_limit_bytes: int | None = None
    inspect: bool = False  # open the inspector of a server that is not ours
    startup_s: float = 60.0  # the longest wait until it listens
    settle_s: float = 30.0  # the longest wait for one settled reading
