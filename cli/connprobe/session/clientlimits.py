"""What would stop this client, were there no end to the server."""

from connprobe.errors import ConnprobeError
from connprobe.model import Ceiling, HoldPlan, HoldRequest, HostFacts, Target
from connprobe.plan.capacity import with_lifts
from connprobe.plan.hold import shape_of
from connprobe.plan.limits.clientceilings import client_ceilings
from connprobe.session.target import route_to
from connprobe.system.apart import apart


def ceilings_of_client(
    request: HoldRequest, facts: HostFacts, target: Target | None, plan: HoldPlan
) -> tuple[Ceiling, ...]:
    """By this host's facts and routes. target: None: the embedded server. (): there is no route any more."""
    try:
        route = apart(route_to, target, facts)
    except ConnprobeError:
        return ()
    shape = shape_of(request, facts, target, route, plan.nofile)
    found = tuple(with_lifts(facts, plan.nofile, shape, request.count))
    return client_ceilings(found, same_host=route.on_this_host)
