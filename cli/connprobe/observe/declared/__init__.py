"""Limits that a server sets for itself in its configuration: one module for each program that is known.

A module has `ceilings(pids, ports, between_requests)`, which gives nothing where none of the processes is
that program, and raises OSError or ValueError saying what it could not find out.
"""

from collections.abc import Sequence

from connprobe.model import Ceiling
from connprobe.observe.declared import haproxy, nginx


def declared_ceilings(pids: Sequence[int], ports: Sequence[int], between_requests: bool) -> list[Ceiling]:
    """What the programs among `pids` declare. OSError, ValueError: what stands in the way of knowing it."""
    return [
        *nginx.ceilings(pids, ports, between_requests),
        *haproxy.ceilings(pids, ports, between_requests),
    ]
