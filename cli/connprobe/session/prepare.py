"""From a request to a plan or its obstacles: everything that is known before anything is touched."""

from pathlib import Path
from random import SystemRandom
from typing import NamedTuple

from msgspec.structs import replace

from connprobe.errors import UsageError
from connprobe.model import HoldPlan, HoldRequest, HostFacts, Obstacle, Target
from connprobe.plan.hold import plan_hold
from connprobe.plan.parse import parse_target
from connprobe.session.sysctl.for_run import plan_sysctls
from connprobe.session.target import resolve, survey
from connprobe.store.rundir import check_writable
from connprobe.system.apart import apart
from connprobe.system.facts import raise_nofile


class Prepared(NamedTuple):
    """All that is known before anything is touched."""

    request: HoldRequest
    target: Target | None
    facts: HostFacts
    plan: HoldPlan
    obstacles: tuple[Obstacle, ...]


def prepare(request: HoldRequest, results: Path) -> Prepared:
    """Facts and plan. Touches nothing but this process's own RLIMIT_NOFILE."""
    target = resolve(*parse_target(request.target)) if request.target is not None else None
    if request.workers is not None and request.workers > request.count:
        raise UsageError(
            f"--workers {request.workers:,} for {request.count:,} connections", fix="--workers auto"
        )
    nofile, _ = raise_nofile(request.count + 1024)
    if target is not None and target.address in request.alias_addresses:
        others = tuple(each for each in request.alias_addresses if each != target.address)
        request = replace(request, alias_addresses=others)  # the target's own address is not for us to add
    facts, route = apart(survey, target)
    _check_sources(request, facts, target)
    sysctls = plan_sysctls(request, facts, target, route, nofile)
    facts = sysctls.facts
    plan, obstacles = plan_hold(request, facts, target, route, nofile, SystemRandom().randrange(1 << 24))
    plan = replace(plan, sysctls=sysctls.changes, notes=(*plan.notes, *sysctls.notes))
    obstacles = (*obstacles, *sysctls.obstacles)
    if request.alias_interface is not None and not Path(f"/sys/class/net/{request.alias_interface}").exists():
        names = ", ".join(sorted(each.name for each in Path("/sys/class/net").iterdir()))
        missing = Obstacle(
            what="interface of --alias",
            have=f"no {request.alias_interface}; there are {names}",
            need="an interface of this host",
            fix="ip link shows them",
        )
        obstacles = (*obstacles, missing)
    unwritable = check_writable(results, 10_000_000)
    if unwritable is not None:
        obstacles = (*obstacles, unwritable)
    return Prepared(request, target, facts, plan, obstacles)


def _check_sources(request: HoldRequest, facts: HostFacts, target: Target | None) -> None:
    """Named sources must be of the target's family, and be there (or be added)."""
    local = {each.address for each in facts.addresses} | set(request.alias_addresses)
    family = "ipv4" if target is None else target.family
    for address in (*(request.sources or ()), *request.alias_addresses):
        if ("ipv6" if ":" in address else "ipv4") != family:
            raise UsageError(
                f"the source {address} is no {family} address, as the target is", fix="--sources auto"
            )
        if address not in local and not address.startswith("127."):
            raise UsageError(
                f"the source {address} is not an address of this host", fix=f"--alias IFACE:{address}"
            )
