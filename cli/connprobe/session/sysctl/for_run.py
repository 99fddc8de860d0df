"""The sysctls of a run: what its profiles raise, as values that the preflight can count with."""

from typing import NamedTuple

from msgspec.structs import replace

from connprobe.model import HoldRequest, HostFacts, Obstacle, SysctlChange, Target
from connprobe.plan.hold import Route, shape_of
from connprobe.plan.sysctl.changes import Reading, changes, compare, left
from connprobe.plan.sysctl.file import Assignment, Profile, expand
from connprobe.plan.sysctl.keys import dotted
from connprobe.plan.sysctl.needs import facts_after, sysctl_needs
from connprobe.session.sysctl.profiles import load
from connprobe.system.facts import reserved_inside
from connprobe.system.sysctl import PAGE_BYTES, Tree

AUTO = "auto"
RESERVED_PORTS = "net/ipv4/ip_local_reserved_ports"


class RunSysctls(NamedTuple):
    """What to write for a run, and the host as it will be by then."""

    facts: HostFacts
    changes: tuple[SysctlChange, ...] = ()
    notes: tuple[str, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()


def plan_sysctls(
    request: HoldRequest, facts: HostFacts, target: Target | None, route: Route, nofile: int
) -> RunSysctls:
    """Profiles in their order, "auto" last, on what they leave. Nothing is lowered. Changes nothing."""
    if not request.sysctls:
        return RunSysctls(facts)
    tree, values = Tree(), _Values(Tree())
    reserved = tree.read(RESERVED_PORTS).value or ""

    def after() -> HostFacts:
        made = {key: change.after for key, change in values.made.items()}
        return facts_after(facts, made, lambda low, high: reserved_inside(reserved, low, high))

    for name in dict.fromkeys(request.sysctls):
        if name != AUTO:
            values.add(load(name))
    if AUTO in request.sysctls:
        host = after()
        needs = sysctl_needs(request, host, shape_of(request, host, target, route, nofile), nofile)
        lines = [Assignment(0, need.key, need.value) for need in needs if need.value is not None]
        values.add(Profile(AUTO, AUTO, "", tuple(lines)))
    forbidden = [dotted(key) for key in values.made if values.first[key].writable == "not us"]
    obstacles = [
        Obstacle(
            what=f"writing the sysctl {name}",
            have="no permission",
            need="root (CAP_NET_ADMIN for net.*)",
            fix="run with sudo, or without --sysctl",
        )
        for name in forbidden
    ]
    return RunSysctls(after(), tuple(values.made.values()), tuple(values.notes), tuple(obstacles))


class _Values:
    """Values of this host with those of profiles over them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.first: dict[str, Reading] = {}
        self.made: dict[str, SysctlChange] = {}
        self.notes: list[str] = []

    def add(self, profile: Profile) -> None:
        rows = [compare(each, self._reading(each.key)) for each in expand(profile, self._tree.matching)]
        self.notes += [f"{profile.name}: {why}" for row in rows if (why := left(row, False, PAGE_BYTES))]
        for change in changes(rows, exact=False):
            before = self.made.get(change.key, change).before
            self.made[change.key] = replace(change, before=before)

    def _reading(self, key: str) -> Reading:
        first = self.first.setdefault(key, self._tree.read(key))
        return first._replace(value=self.made[key].after) if key in self.made else first
