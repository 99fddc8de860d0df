"""The client's own capacities in the table of limits."""

from connprobe.model import Capacity
from connprobe.plan.limits.clientceilings import client_ceilings


def _capacity(resource: str) -> Capacity:
    return Capacity(
        resource=resource,
        source=f"/{resource}",
        capacity=28232,
        used=7,
        per_connection=1,
        connections=28225,
        fix="do",
    )


def test_on_the_servers_host_only_what_the_server_does_not_draw_from() -> None:
    every = [_capacity(name) for name in ("source_ports", "memory", "file_max", "threads")]
    here, there = (client_ceilings(every, same_host=same) for same in (True, False))
    assert [each.resource for each in here] == ["source_ports", "threads"]
    assert [each.unit for each in there] == ["connections", "bytes", "count", "count"]
    assert {each.scope for each in there} == {"client"}
    ports = here[0]
    assert (ports.capacity, ports.used, ports.per_connection, ports.metric) == (28232, 7, 1, None)
    assert (ports.source, ports.fix) == ("/source_ports", "do")
