"""What a connection costs by a hold, on whose ramp nothing settles before it is read.

A server lags behind its client: of 3,000 connections that the client had opened, Node had accepted 1,306. So
a look at a ramp is paired with the connections that the server itself had then, by its descriptors.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from connprobe.model import Growth, Reading
from connprobe.plan.limits.growth import FEWEST, fit
from connprobe.plan.limits.hostcounts import OF_ALL, of_all
from connprobe.plan.limits.prediction import unit_of

Use = Mapping[str, float]

LEAST_FDS = 0.95  # a connection takes a descriptor at the least; some may have been closed a moment ago
ONE_OFF = 0.01  # of the connections: so many descriptors, and no more, may be a log, a pipe, a worker's own
ONE_OFF_LEAST = 8
SLABS_OFF = 3e6  # bytes that other sockets and files of a busy host moved in the slabs during a minute


class Held(NamedTuple):
    """growth: by metric. off: bytes that readings of a metric may be off. unknown: why there is none."""

    growth: dict[str, Growth]
    off: dict[str, float]
    unknown: dict[str, str]


def of_hold(
    start: Reading, looks: Sequence[Use], idle: Reading, plateau: Sequence[float], *, ends: int = 1
) -> Held:
    """start: without connections. looks: at the ramp, and after it. idle: at the end, with none under way.

    plateau: the RSS in the later half of the plateau. Counts that rose by a whole number for each connection
    are known to the letter from start and idle; all else is fitted through the looks and idle. ends: 2 where
    both ends of a connection are on this host.
    """
    unknown = {}
    ramp = _paired(start, looks, idle)
    if ramp is None:
        ramp, unknown["ramp"] = [], _unpaired(start, idle)
    growth: dict[str, Growth] = {}
    for metric in sorted(start.use.keys() & idle.use.keys()):
        known = [each for each in ramp if metric in each.use]
        found = _whole(metric, start, idle) if unit_of(metric) == "count" else None
        if found is None and not _is_pairing(metric, [start, *known, idle]):
            points = [*known, idle]
            if len({each.connections for each in points}) < FEWEST:
                points.insert(0, start)
            found = fit_of(metric, points)
        if found is not None:
            growth[metric] = found
    own = _whole("fds", start, idle) if "fds" in start.use.keys() & idle.use.keys() else None
    counted = {metric: each for metric, each in growth.items() if metric not in OF_ALL}
    growth = counted | of_all(
        {**counted, "fds": own} if own else {metric: it for metric, it in counted.items() if metric != "fds"},
        idle.use,
        idle.connections,
        ends=ends,
    )
    moved = max(plateau, default=0.0) - min(plateau, default=0.0)
    off = {metric: moved for metric in ("rss_bytes", "cgroup_bytes") if moved}
    off["memory_bytes"] = moved + SLABS_OFF
    return Held(growth, off, unknown)


def fit_of(metric: str, readings: Sequence[Reading]) -> Growth | None:
    return fit(
        [each.connections for each in readings],
        [each.use[metric] for each in readings],
        metric=metric,
        unit=unit_of(metric),
    )


def _paired(start: Reading, looks: Sequence[Use], idle: Reading) -> list[Reading] | None:
    """The looks as readings, each with the server's own connections. None: they cannot be told."""
    each = _fds_each(start, idle)
    if each is None or each < LEAST_FDS:
        return None
    found: list[Reading] = []
    for use in looks:
        connections = round((use["fds"] - start.use["fds"]) / each) if "fds" in use else 0
        if 0 < connections < idle.connections:
            found.append(
                Reading(
                    stage="ramp",
                    at_s=start.at_s,
                    connections=connections,
                    settled=False,
                    use={**use, **_memory(use, connections, idle)},
                )
            )
    return found


def _memory(use: Use, connections: int, idle: Reading) -> dict[str, float]:
    """memory_bytes of a look: its own RSS, and the kernel's share by what it was in `idle`."""
    if not {"memory_bytes", "kernel_bytes", "rss_bytes"} <= idle.use.keys() or "rss_bytes" not in use:
        return {}
    kernel = idle.use["kernel_bytes"]
    first = idle.use["rss_bytes"] + kernel - idle.use["memory_bytes"]
    return {"memory_bytes": use["rss_bytes"] - first + kernel * connections / idle.connections}


def _fds_each(start: Reading, idle: Reading) -> float | None:
    if "fds" not in start.use or "fds" not in idle.use or idle.connections < 1:
        return None
    return (idle.use["fds"] - start.use["fds"]) / idle.connections


def _unpaired(start: Reading, idle: Reading) -> str:
    each = _fds_each(start, idle)
    if each is None:
        return "this kernel does not tell how many descriptors a process has (Linux 6.2 or later does)"
    return f"a connection took {each:.2f} descriptors of the server, so its own count of them is not known"


def _whole(metric: str, start: Reading, idle: Reading) -> Growth | None:
    """A count that rose by a whole number for each connection, and perhaps a few more that are no connection.

    Those few count as taken once; the interval has room for their coming with the connections all the same.
    """
    rise, number = idle.use[metric] - start.use[metric], idle.connections
    whole = round(rise / number)
    extra = rise - whole * number
    room = max(ONE_OFF_LEAST, ONE_OFF * number) if whole else ONE_OFF_LEAST
    if whole < 0 or abs(extra) > min(room, number / 10):
        return None
    base, each = idle.use[metric] - whole * number, abs(extra) / number
    return Growth(
        metric=metric,
        unit="count",
        base=base,
        base_low=base - abs(extra),
        base_high=base + abs(extra),
        per_connection=whole,
        low=whole - each,
        high=whole + each,
        residual=0.0,
        readings=2,
        first=0,
        last=number,
        center=number,
        shape="straight" if whole else "flat",
    )


def _is_pairing(metric: str, readings: Sequence[Reading]) -> bool:
    """Descriptors of a server of one process are what its connections were counted by: a perfect fit."""
    return metric == "fds" or (
        metric.startswith("process_fds")
        and len({each.use[metric] - each.use["fds"] for each in readings if "fds" in each.use}) == 1
    )
