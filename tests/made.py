"""Ceilings and limits, with what most tests do not care for filled in."""

from typing import Any

from connprobe.model import Ceiling, Limit

SERVER = "server (pid 7)"


def a_ceiling(resource: str, capacity: float, metric: str | None = None, **more: Any) -> Ceiling:
    given: dict[str, Any] = {"scope": SERVER, "source": "a test", "fix": ""}
    return Ceiling(resource=resource, capacity=capacity, metric=metric, **(given | more))


def a_limit(
    resource: str, connections: int, low: int | None = None, high: int | None = None, **more: Any
) -> Limit:
    """low, high: None: known to a connection."""
    given: dict[str, Any] = {"scope": SERVER, "capacity": 20_000.0, "per_connection": 1.0, "fix": ""}
    return Limit(
        resource=resource,
        connections=connections,
        low=connections if low is None else low,
        high=connections if high is None else high,
        **(given | more),
    )
