"""Where a run connects to: the name resolved, the route to it, the processes behind its listener."""

import re
import socket
from collections.abc import Sequence

from connprobe.errors import RunFailed
from connprobe.model import Family, HostFacts, Target
from connprobe.plan.hold import Route
from connprobe.system.addresses import source_for
from connprobe.system.facts import read_facts
from connprobe.wire.http import request_bytes


def resolve(host: str, port: int) -> Target:
    """The first address that the system's resolver gives. Raises RunFailed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise RunFailed(
            f"the target {host!r} does not resolve: {reason}", fix=f"getent hosts {host}; check --target"
        ) from error
    family, _, _, _, sockaddr = found[0]
    named: Family = "ipv6" if family == socket.AF_INET6 else "ipv4"
    scope = int(sockaddr[3]) if len(sockaddr) == 4 else 0
    return Target(host=host, address=str(sockaddr[0]), port=port, family=named, scope_id=scope)


def sockaddr(target: Target) -> tuple[str | int, ...]:
    """What connect(2) takes."""
    if target.family == "ipv6":
        return (target.address, target.port, 0, target.scope_id)
    return (target.address, target.port)


def host_header(target: Target) -> str:
    """Without a zone, which means nothing to the server."""
    return re.sub(r"%[^\]]*", "", target.label)


def get_request(target: Target, path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """GET with the user's headers, among which a Host may be."""
    named = any(name.lower() == "host" for name, _ in headers)
    return request_bytes("GET", path, [*([] if named else [("Host", host_header(target))]), *headers])


def survey(target: Target | None) -> tuple[HostFacts, Route]:
    """What this host allows, and how it reaches the target. Raises RunFailed."""
    facts = read_facts()
    return facts, route_to(target, facts)


def route_to(target: Target | None, facts: HostFacts) -> Route:
    """How this host reaches the target (None: the embedded server). Raises RunFailed without a route."""
    if target is None:
        return Route("lo", "127.0.0.1", ("127.0.0.1",), True)
    found = source_for(target.address, target.scope_id)
    siblings = [
        each.address
        for each in facts.addresses
        if each.interface == found.interface and each.family == target.family and each.address != found.source
    ]
    if target.family == "ipv6":  # a link-local source reaches only its link
        siblings = [address for address in siblings if not address.startswith("fe80")]
    return Route(found.interface, found.source, (found.source, *siblings), found.is_local)
