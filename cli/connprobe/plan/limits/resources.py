"""What each resource is called in a sentence, and how its capacity is written."""

from typing import Final

from connprobe.model import LeftOut, Limit

NAMES: Final = {
    "nofile": "file descriptors",
    "nr_open": "the kernel's most descriptors of a process",
    "file_max": "the kernel's file table",
    "cgroup_memory": "the memory of its cgroup",
    "memory": "this host's memory",
    "heap": "the heap",
    "epoll_watches": "epoll watches",
    "threads": "threads",
    "conntrack": "the conntrack table",
    "server_config": "the server's own configuration",
    "source_ports": "source ports",
    "accept_queue": "the accept queue",
    "cpu": "the CPU",
    "max_map_count": "memory mappings",
}
# A runtime is told by what its limit was read from.
RUNTIMES: Final = (
    (("v8", "node", "inspector"), "the V8 heap"),
    (("jvm", "java", "jcmd", "jstat"), "the Java heap"),
)

SIZES: Final = ("B", "kB", "MB", "GB", "TB", "PB")
MOST_WHOLE = 10_000


def name(limit: Limit | LeftOut) -> str:
    """In the middle of a sentence: "the V8 heap", "file descriptors"."""
    if limit.resource == "heap":
        told = f"{limit.scope} {limit.source}".lower()
        for words, called in RUNTIMES:
            if any(word in told for word in words):
                return called
    return NAMES.get(limit.resource, limit.resource.replace("_", " "))


def is_client(limit: Limit | LeftOut) -> bool:
    return limit.scope.startswith("client")


def capacity(limit: Limit) -> str:
    """As people set it: "20,000", "80 MB" where that comes out whole in powers of 1024, else "1.7 GB"."""
    if limit.unit != "bytes":
        return f"{limit.capacity:,.0f}"
    for power in range(len(SIZES) - 1, 0, -1):
        whole, rest = divmod(limit.capacity, 1024**power)
        if not rest and 0 < whole < MOST_WHOLE:
            return f"{whole:,.0f} {SIZES[power]}"
    power = 0
    while power < len(SIZES) - 1 and limit.capacity / 1000**power >= 999.5:
        power += 1
    return f"{limit.capacity / 1000**power:,.3g} {SIZES[power]}"
