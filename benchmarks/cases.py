"""The cases of the table of limits: which server, under which limit, and with how many connections to begin.

The count is a fifth of the configured number where that counts connections, and a round number for each MB
where it is memory: a rule, the same for all, that keeps it below a quarter of what any of them holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

HEAP_COUNT = 40  # connections for each MB of a heap
HEAVY_COUNT = 30  # whose requests have a header of HEAVY_BYTES
HEAVY_BYTES = 2000
WS_COUNT = 130  # of WebSockets, for each MB of a heap
MOST_HEAP_COUNT = 240  # connections for each MB of a heap: more it never has room for
CGROUP_COUNT = 15  # and of a cgroup's memory, which sockets take from as well


@dataclass(frozen=True)
class Case:
    """resource: what is at its end. nofile: soft limit of the server. group: (controller, limit), its own.

    arguments: of connprobe. descriptors: that it takes until its resource ends; a host that gives a process
    fewer ends it by those.
    """

    name: str
    server: str
    count: int
    resource: str
    options: Mapping[str, str] = field(default_factory=dict)
    nofile: int | None = None
    group: tuple[str, int] | None = None
    arguments: tuple[str, ...] = ()
    descriptors: int = 0

    def expected(self, nofile: int) -> str:
        """The resource that ends first where a process may have `nofile` descriptors."""
        return "nofile" if nofile < self.descriptors else self.resource


def _node(shape: str, heap_mb: int, heavy: bool = False) -> Case:
    return Case(
        f"Node {shape}, {heap_mb} MB heap{f', headers of {HEAVY_BYTES:,} B' * heavy}",
        f"node-{shape}",
        (HEAVY_COUNT if heavy else HEAP_COUNT) * heap_mb,
        "heap",
        options={"heap_mb": str(heap_mb)},
        arguments=("--header", f"X-Heavy: {'x' * HEAVY_BYTES}") * heavy,
        descriptors=0 if heavy else MOST_HEAP_COUNT * heap_mb,
    )


def _node_ws(heap_mb: int) -> Case:
    name = f"Node WebSocket, {heap_mb} MB heap"
    return Case(name, "node-ws", WS_COUNT * heap_mb, "heap", options={"heap_mb": str(heap_mb)})


def _nginx(worker_connections: int) -> Case:
    options = {"mode": "pending", "worker_connections": str(worker_connections)}
    name = f"nginx, worker_connections {worker_connections:,}"
    return Case(name, "nginx", worker_connections // 5, "server_config", options=options)


def _descriptors(nofile: int) -> Case:
    name = f"Python asyncio, RLIMIT_NOFILE {nofile:,}"
    return Case(name, "python-asyncio", nofile // 5 // 100 * 100, "nofile", nofile=nofile)


def _memory(size_mb: int) -> Case:
    name = f"Python asyncio, memory cgroup of {size_mb} MB"
    count = CGROUP_COUNT * size_mb
    return Case(name, "python-asyncio", count, "cgroup_memory", group=("memory", size_mb << 20))


CASES: tuple[Case, ...] = (
    *(_node(shape, heap_mb) for shape in ("array", "object") for heap_mb in (40, 80, 120)),
    *(_node(shape, 120, heavy=True) for shape in ("array", "object")),
    _node_ws(20),
    _node_ws(28),
    _nginx(3000),
    _nginx(9000),
    Case("HAProxy, maxconn 5,000", "haproxy", 1000, "server_config", options={"maxconn": "5000"}),
    _descriptors(4096),
    _descriptors(12_000),
    _memory(64),
    _memory(128),
    Case("Python threads, pids cgroup of 2,000", "python-threads", 400, "threads", group=("pids", 2000)),
)
