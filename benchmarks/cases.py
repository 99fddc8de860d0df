"""The cases of the table of limits: which server, under which limit, and with how many connections to begin.

The count is a fifth of the configured number where that counts connections, and a round number for each MB
where it is memory: a rule, the same for all, that keeps it below a quarter of what any of them holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

HEAP_COUNT = 40  # connections for each MB of a heap
CGROUP_COUNT = 15  # and of a cgroup's memory, which sockets take from as well


@dataclass(frozen=True)
class Case:
    """resource: what is at its end. nofile: soft limit of the server. group: (controller, limit), its own."""

    name: str
    server: str
    count: int
    resource: str
    options: Mapping[str, str] = field(default_factory=dict)
    nofile: int | None = None
    group: tuple[str, int] | None = None


def _node(shape: str, heap_mb: int) -> Case:
    options = {"heap_mb": str(heap_mb)}
    return Case(
        f"Node {shape}, {heap_mb} MB heap", f"node-{shape}", HEAP_COUNT * heap_mb, "heap", options=options
    )


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
    _nginx(3000),
    _nginx(9000),
    Case("HAProxy, maxconn 5,000", "haproxy", 1000, "server_config", options={"maxconn": "5000"}),
    _descriptors(4096),
    _descriptors(12_000),
    _memory(64),
    _memory(128),
    Case("Python threads, pids cgroup of 2,000", "python-threads", 400, "threads", group=("pids", 2000)),
)
