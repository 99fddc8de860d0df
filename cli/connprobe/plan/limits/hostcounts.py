"""Counts of the whole host and of a cgroup: they grow by what the server takes, not by what others do.

A compiler beside the server opens files and starts threads while connections come: a line through the host's
counter has them in its slope. So only where that line lies is the host's, and its slope is the server's own.
"""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from connprobe.model import Growth

_OF_THREADS: Final = ("host_threads", "pids")
OF_ALL: Final = frozenset({*_OF_THREADS, "files"})


def of_all(
    growth: Mapping[str, Growth], use: Mapping[str, float], connections: int, *, ends: int
) -> dict[str, Growth]:
    """growth: of the server's own metrics. use: what there was at `connections`. ends: both here: 2."""
    found = {}
    threads = growth.get("threads")
    for metric in _OF_THREADS:
        if threads is not None and metric in use and "threads" in use:
            found[metric] = _shifted(threads, metric, use[metric] - use["threads"])
    fds = growth.get("fds")
    if fds is not None and "files" in use:
        found["files"] = files(fds, use["files"], connections, ends=ends)
    return found


def files(fds: Growth, in_use: float, connections: int, *, ends: int) -> Growth:
    """fds: of the server; each end of a connection on this host is a file. in_use: at `connections`."""
    other = ends - 1
    grown = replace(
        fds,
        per_connection=fds.per_connection + other,
        low=fds.low + other,
        high=fds.high + other,
        shape="straight" if other and fds.shape == "flat" else fds.shape,
    )
    return _shifted(grown, "files", in_use - grown.per_connection * connections - fds.base)


def _shifted(own: Growth, metric: str, others: float) -> Growth:
    return replace(
        own,
        metric=metric,
        base=own.base + others,
        base_low=own.base_low + others,
        base_high=own.base_high + others,
    )
