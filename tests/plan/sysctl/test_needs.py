"""What a hold needs of the kernel, in figures that the preflight then agrees with."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from connprobe.model import HoldRequest, HostFacts, Target
from connprobe.plan.hold import Route, plan_hold, shape_of
from connprobe.plan.sysctl.file import parse_profile
from connprobe.plan.sysctl.needs import PORTS, Need, facts_after, sysctl_needs
from connprobe.plan.sysctl.text import needs_text

REMOTE = Target(host="10.0.0.1", address="10.0.0.1", port=80, family="ipv4")
ONE_SOURCE = Route("eth0", "10.0.0.2", ("10.0.0.2",), False)
HERE = Route("lo", "127.0.0.1", ("127.0.0.1",), True)


def needs_of(
    count: int, facts: HostFacts, target: Target | None = REMOTE, concurrency: int = 1000
) -> list[Need]:
    request = HoldRequest(target=None, count=count, concurrency=concurrency)
    route = HERE if target is None else ONE_SOURCE
    return sysctl_needs(request, facts, shape_of(request, facts, target, route, 20_000), 20_000)


def values(needs: list[Need]) -> dict[str, str]:
    return {need.key: need.value for need in needs if need.value is not None}


def no_reserved(low: int, high: int) -> int:
    return 0


def test_a_roomy_host_needs_nothing(roomy: HostFacts) -> None:
    assert values(needs_of(28_000, roomy)) == {}


def test_ports_are_taken_from_the_top_first(roomy: HostFacts) -> None:
    assert values(needs_of(30_000, roomy)) == {PORTS: "32768 65535"}
    assert values(needs_of(40_000, roomy)) == {PORTS: "25536 65535"}
    assert values(needs_of(60_000, roomy)) == {PORTS: "5536 65535"}
    assert values(needs_of(64_512, roomy)) == {PORTS: "1024 65535"}


def test_more_than_all_ports_is_said(roomy: HostFacts) -> None:
    (need,) = (each for each in needs_of(100_003, roomy) if each.key == PORTS)
    assert need.value == "1024 65535"
    assert "more addresses are needed too" in need.arithmetic


def test_every_figure_of_the_arithmetic_is_there(roomy: HostFacts) -> None:
    small = replace(roomy, file_max=50_000, epoll_watches=10_000, conntrack_max=5_000, conntrack_count=17)
    found = {need.key: need for need in needs_of(20_011, small, None, concurrency=9_999)}
    assert found["fs/file-max"].value == str(1000 + 20_011 * 2 + 100_000)
    assert found["fs/file-max"].arithmetic == (
        "1,000 files open now + 20,011 connections x 2 on this host + 100,000 spare = 141,022; "
        "there is 50,000"
    )
    assert found["fs/epoll/max_user_watches"].value == str(20_011 * 2 + 100_000)
    assert found["net/netfilter/nf_conntrack_max"].value == str(17 + 20_011 + 10_000)
    assert found["net/core/somaxconn"].value == "9999"
    assert found[PORTS].value is None
    assert found["kernel/pid_max"].value is None


def test_the_text_is_a_profile_with_the_same_values(roomy: HostFacts) -> None:
    needs = needs_of(60_000, replace(roomy, file_max=50_000))
    text = needs_text("a hold", needs, ["memory: too little"])
    read = parse_profile("plan", "plan", text.encode())
    assert {each.key: each.value for each in read.assignments} == values(needs)
    assert "# No sysctl mends this: memory: too little" in text


@given(st.data(), st.integers(1, 2_000_000), st.booleans())
def test_with_the_needs_met_no_sysctl_is_an_obstacle(
    hosts: st.SearchStrategy[HostFacts], data: st.DataObject, count: int, embedded: bool
) -> None:
    """Whatever the host: what is refused then is no sysctl, or more ports than an address has."""
    facts = data.draw(hosts)
    low, high = sorted((facts.port_low, facts.port_high))
    facts = replace(facts, port_low=low, port_high=high, reserved_ports=0)
    target = None if embedded else REMOTE
    request = HoldRequest(target=None, count=count)
    after = facts_after(facts, values(needs_of(count, facts, target)), no_reserved)
    _, obstacles = plan_hold(request, after, target, HERE if embedded else ONE_SOURCE, 20_000, 0)
    refused = "\n".join(obstacle.what for obstacle in obstacles)
    for key in ("fs/file-max", "fs/epoll/max_user_watches", "nf_conntrack_max", "kernel/pid_max"):
        assert key not in refused
    assert "ip_local_port_range" not in refused or count > 64_512
