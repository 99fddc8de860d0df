"""`connprobe sysctl plan`: a profile computed for one hold on this host."""

from connprobe.model import HoldRequest
from connprobe.plan.hold import plan_hold, shape_of
from connprobe.plan.parse import parse_target
from connprobe.plan.sysctl.needs import facts_after, sysctl_needs
from connprobe.plan.sysctl.text import needs_text
from connprobe.session.sysctl.for_run import RESERVED_PORTS
from connprobe.session.target import resolve, survey
from connprobe.system.facts import raise_nofile, reserved_inside
from connprobe.system.sysctl import Tree


def plan_profile(count: int, target: str | None) -> str:
    """The text of the profile; obstacles that no sysctl lifts are comments in it. Changes nothing.

    Raises RunFailed where the target does not resolve or no route leads to it.
    """
    request = HoldRequest(target=target, count=count)
    resolved = resolve(*parse_target(target)) if target is not None else None
    nofile, _ = raise_nofile(count + 1024)
    facts, route = survey(resolved)
    needs = sysctl_needs(request, facts, shape_of(request, facts, resolved, route, nofile), nofile)
    values = {need.key: need.value for need in needs if need.value is not None}
    reserved = Tree().read(RESERVED_PORTS).value or ""
    after = facts_after(facts, values, lambda low, high: reserved_inside(reserved, low, high))
    _, obstacles = plan_hold(request, after, resolved, route, nofile, 0)
    where = target or "an embedded server on loopback"
    beyond = [f"{it.what}: have {it.have}, need {it.need}; {it.fix}" for it in obstacles]
    return needs_text(f"`connprobe hold --count {count}` of {where}", needs, beyond)
