"""What stops the client before the server: its own capacities as ceilings, so that one table shows both."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from connprobe.model import Capacity, Ceiling

_OF_THE_CLIENT: Final = frozenset({"source_ports", "threads"})
_UNITS: Final[Mapping[str, Literal["bytes", "connections"]]] = {
    "source_ports": "connections",
    "memory": "bytes",
    "cgroup_memory": "bytes",
}


def client_ceilings(capacities: Sequence[Capacity], *, same_host: bool) -> tuple[Ceiling, ...]:
    """Of those in plan.capacity.capacities that are the client's.

    Where the server is on another host all are; on the same one both draw from it, and the server's ceilings
    say the rest.
    """
    return tuple(
        Ceiling(
            resource=each.resource,
            scope="client",
            capacity=each.capacity,
            source=each.source,
            fix=each.fix,
            used=each.used,
            per_connection=each.per_connection,
            unit=_UNITS.get(each.resource, "count"),
        )
        for each in capacities
        if not same_host or each.resource in _OF_THE_CLIENT
    )
