from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from connprobe.model import HoldPlan, HoldRequest, HostFacts, Obstacle, SourceShare, Target
from connprobe.plan.capacity import FD_RESERVE, Shape, capacities
from connprobe.plan.hold import Route, plan_hold, worker_processes
from connprobe.plan.sources import LOOPBACK_SHARE

LOOPBACK = Route("lo", "127.0.0.1", ("127.0.0.1",), True)
ROUTES = {
    None: LOOPBACK,
    "127.0.0.9": LOOPBACK,
    "::1": Route("lo", "::1", ("::1",), True),
    "10.0.0.1": Route("eth0", "10.0.0.5", ("10.0.0.5", "10.0.0.6", "10.0.0.7"), False),
    "10.0.0.5": Route("lo", "10.0.0.5", ("10.0.0.5", "127.0.0.1"), True),
    "fe80::9%eth0": Route("eth0", "", (), False),
}
PORTS = 28_232

counts = st.integers(1, 1000) | st.integers(1, 10**7) | st.integers(1, 10**12)
lists = st.lists(st.integers(1, 250).map("127.1.2.{}".format), min_size=1, max_size=30).map(tuple)


def plan(
    facts: HostFacts,
    count: int,
    address: str | None = None,
    nofile: int = 20_000,
    seed: int = 23,
    **asked: Any,
) -> tuple[HoldPlan, tuple[Obstacle, ...]]:
    target = None
    if address is not None:
        family: Any = "ipv6" if ":" in address else "ipv4"
        target = Target(host="host", address=address, port=80, family=family)
    request = HoldRequest(target=None, count=count, **asked)
    return plan_hold(request, facts, target, ROUTES[address], nofile, seed)


def used_ports(found: HoldPlan) -> dict[str, int]:
    used: dict[str, int] = {}
    for shard in found.shards:
        for share in shard.sources:
            used[share.address] = used.get(share.address, 0) + share.count
    return used


@pytest.mark.parametrize(
    ("workers", "cpus", "processes"),
    [(1, 2, 1), (8, 2, 8), (9, 2, 2), (21, 1, 2), (21, 4, 4), (21, 64, 21), (64, 64, 64), (512, 64, 64)],
)
def test_many_workers_are_threads_of_as_many_processes_as_can_work(
    workers: int, cpus: int, processes: int, roomy: HostFacts
) -> None:
    request, facts = HoldRequest(target=None, count=workers), replace(roomy, cpus=cpus)
    assert worker_processes(request, workers, facts) == processes
    assert worker_processes(replace(request, workers=workers), workers, facts) == workers
    assert worker_processes(request, workers, replace(facts, may_unshare=False)) == workers


def bound(share: SourceShare) -> list[int]:
    """The ports that are bound if all are free; none where the kernel chooses."""
    if share.ports is None:
        return []
    low, high, step = share.ports
    candidates = range(low, high + 1, step)
    first = candidates.index(share.first_port)
    return [candidates[(first + i) % len(candidates)] for i in range(share.count)]


def check(found: HoldPlan, count: int) -> None:
    """What must hold of every plan that nothing forbids."""
    assert [shard.index for shard in found.shards] == list(range(found.workers))
    assert sum(shard.count for shard in found.shards) == count
    for shard in found.shards:
        assert shard.count == sum(share.count for share in shard.sources)
        assert shard.count <= found.nofile - FD_RESERVE
        assert all(share.count > 0 for share in shard.sources)
    assert max(shard.count for shard in found.shards) - min(shard.count for shard in found.shards) <= 1
    used = used_ports(found)
    assert all(number <= found.ports_per_source for number in used.values())
    assert found.source_addresses == len(used)
    assert set(found.alias_addresses) <= set(used)


@given(
    data=st.data(),
    address=st.sampled_from(list(ROUTES)),
    count=counts,
    nofile=st.integers(0, 200) | st.integers(1000, 1 << 20),
    workers=st.none() | st.integers(1, 100) | st.integers(1, 10**12),
    sources=st.none() | lists,
    alias=st.just(()) | lists,
    ports=st.none()
    | st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: tuple(sorted(pair))),
    seed=st.integers(0, (1 << 24) - 1),
)
@settings(deadline=None, max_examples=300)
def test_every_request_on_every_host(
    hosts: st.SearchStrategy[HostFacts],
    roomy: HostFacts,
    data: st.DataObject,
    address: str | None,
    count: int,
    nofile: int,
    workers: int | None,
    sources: tuple[str, ...] | None,
    alias: tuple[str, ...],
    ports: tuple[int, int] | None,
    seed: int,
) -> None:
    facts = data.draw(hosts | st.just(roomy))
    asked: dict[str, Any] = {"sources": sources, "alias_addresses": alias, "source_ports": ports}
    found, obstacles = plan(
        facts, count, address, nofile, seed, workers=workers and min(workers, count), **asked
    )
    assert found.workers >= 1
    for obstacle in obstacles:
        assert all((obstacle.what, obstacle.have, obstacle.need, obstacle.fix))
    if obstacles:
        assert found.shards == ()
    else:
        check(found, count)


@given(st.data(), counts, st.integers(65, 1 << 20))
@settings(deadline=None)
def test_obstacles_are_the_capacities_below_the_count(
    hosts: st.SearchStrategy[HostFacts], data: st.DataObject, count: int, nofile: int
) -> None:
    facts = data.draw(hosts)
    found, obstacles = plan(facts, count, "10.0.0.1", nofile)
    processes = found.worker_processes or 0
    shape = Shape(
        both_ends=False,
        source_addresses=3,
        ports_per_source=found.ports_per_source,
        processes=processes,
        threads=found.workers + (processes if processes < found.workers else 0),
    )
    below = {each.source for each in capacities(facts, nofile, shape, count) if each.connections < count}
    named = {source for source in below for obstacle in obstacles if f"({source})" in obstacle.what}
    assert named == below
    own = 2 * found.workers + FD_RESERVE > nofile
    assert len(obstacles) == len(below) + own


@pytest.mark.parametrize("count", [1, 23, 20_000, 997_001])
@pytest.mark.parametrize("workers", [None, 1, 7, 54])
def test_on_loopback_no_two_workers_share_an_address(
    roomy: HostFacts, count: int, workers: int | None
) -> None:
    workers = workers and min(workers, count)
    found, obstacles = plan(roomy, count, nofile=1_000_000, workers=workers)
    assert obstacles == ()
    check(found, count)
    sources = [share.address for shard in found.shards for share in shard.sources]
    assert len(sources) == len(set(sources))
    assert "127.0.0.1" not in sources  # there the servers of this host have their own traffic
    assert all(number <= LOOPBACK_SHARE for number in used_ports(found).values())


def test_few_named_sources_on_loopback_are_used_up(roomy: HostFacts) -> None:
    two = ("127.0.0.2", "127.0.0.3")
    for count in (30_000, 2 * PORTS):
        found, obstacles = plan(roomy, count, sources=two)
        assert obstacles == ()
        check(found, count)
    _, (obstacle,) = plan(roomy, 2 * PORTS + 1, sources=two)
    assert "source ports" in obstacle.what


def test_a_source_that_is_named_twice_has_its_ports_once(roomy: HostFacts) -> None:
    found, _ = plan(roomy, PORTS, "10.0.0.1", sources=("10.0.0.5",), alias_addresses=("10.0.0.5",))
    check(found, PORTS)
    _, obstacles = plan(roomy, PORTS + 1, "10.0.0.1", sources=("10.0.0.5",), alias_addresses=("10.0.0.5",))
    assert len(obstacles) == 1


@pytest.mark.parametrize("seed", [0, (1 << 24) - 5, (1 << 24) - 1])
def test_loopback_sources_go_round_at_the_end(roomy: HostFacts, seed: int) -> None:
    found, _ = plan(roomy, 200_000, seed=seed)
    check(found, 200_000)
    assert len(used_ports(found)) >= 20
    assert not {"127.0.0.0", "127.0.0.1", "127.255.255.255"} & set(used_ports(found))


def test_ipv6_loopback_has_one_address(roomy: HostFacts) -> None:
    found, obstacles = plan(roomy, PORTS, "::1")
    assert obstacles == ()
    assert used_ports(found) == {"::1": PORTS}
    _, (obstacle,) = plan(roomy, 100_000, "::1")
    assert "source ports" in obstacle.what
    assert "28,232" in obstacle.have
    assert "--alias" in obstacle.fix
    assert "4 addresses" in obstacle.fix


def test_addresses_are_filled_one_after_another(roomy: HostFacts) -> None:
    half = PORTS // 2
    found, _ = plan(roomy, half + 5, "10.0.0.1")
    assert used_ports(found) == {"10.0.0.5": half, "10.0.0.6": 5}
    found, _ = plan(
        roomy,
        50_000,
        "10.0.0.1",
        alias_interface="eth0",
        alias_addresses=("10.0.0.32", "10.0.0.33", "10.0.0.34"),
    )
    assert found.alias_addresses == ("10.0.0.32", "10.0.0.33")  # no more than needed


def test_named_ports_are_dealt_out_once_each(roomy: HostFacts) -> None:
    found, obstacles = plan(roomy, 100_003, "10.0.0.1", workers=7, source_ports=(1024, 65535))
    assert obstacles == ()
    check(found, 100_003)
    dealt = [
        (share.address, port) for shard in found.shards for share in shard.sources for port in bound(share)
    ]
    assert len(dealt) == len(set(dealt)) == 100_003
    assert min(port for _, port in dealt) == 1024
    assert max(port for _, port in dealt) == 65535


def test_the_half_that_connect_scans_in_vain_is_bound_port_by_port(roomy: HostFacts) -> None:
    found, _ = plan(roomy, 3 * PORTS, "10.0.0.1", workers=7)
    check(found, 3 * PORTS)
    shares = [share for shard in found.shards for share in shard.sources]
    chosen = sum(share.count for share in shares if share.ports is None)
    dealt = [(share.address, port) for share in shares for port in bound(share)]
    assert chosen == len(dealt) == 3 * PORTS // 2
    assert len(set(dealt)) == len(dealt)
    assert {port % 2 for _, port in dealt} == {(roomy.port_low + 1) % 2}


def test_with_enough_addresses_none_gives_more_than_half_of_its_ports(roomy: HostFacts) -> None:
    found, _ = plan(roomy, PORTS, "10.0.0.1")
    assert used_ports(found) == {"10.0.0.5": PORTS // 2, "10.0.0.6": PORTS // 2}
    assert all(share.ports is None for shard in found.shards for share in shard.sources)


def test_reserved_ports_are_left_to_the_kernel_to_avoid(roomy: HostFacts) -> None:
    facts = replace(roomy, reserved_ports=11)
    found, obstacles = plan(facts, 3 * (PORTS - 11), "10.0.0.1")
    assert obstacles == ()
    check(found, 3 * (PORTS - 11))
    assert all(share.ports is None for shard in found.shards for share in shard.sources)


def test_every_obstacle_at_once(roomy: HostFacts) -> None:
    poor = replace(
        roomy,
        capabilities=(),
        memory_available_bytes=0,
        cgroup_memory_max_bytes=1000,
        file_max=1000,
        epoll_watches=10,
        conntrack_max=10,
        process_limit=100,
        pid_max=100,
        cgroup_pids_max=0,
    )
    _, obstacles = plan(poor, 10**6, "::1", nofile=1100, workers=23, alias_interface="eth0")
    said = " | ".join(obstacle.what for obstacle in obstacles)
    for what in (
        "ports",
        "MemAvailable",
        "cgroup",
        "file-max",
        "epoll",
        "conntrack",
        "pid_max",
        "NPROC",
        "pids.max",
    ):
        assert what in said
    assert "adding addresses to eth0" in said
    assert "descriptors of 23 workers" in said
    assert len(obstacles) == len({obstacle.what for obstacle in obstacles}) == 11


@pytest.mark.parametrize(
    "limit", [{"pid_max": 10_000}, {"process_limit": 10_000}, {"cgroup_pids_max": 9_000}]
)
def test_more_workers_than_processes_allowed(roomy: HostFacts, limit: dict[str, int]) -> None:
    facts = replace(roomy, **limit)
    _, (obstacle,) = plan(facts, 20_000, "127.0.0.9", nofile=100_000, workers=10_007)
    assert "processes" in obstacle.what
    assert plan(facts, 20_000, "127.0.0.9", nofile=100_000, workers=7_919)[1] == ()


def test_more_workers_than_this_command_has_descriptors_for(roomy: HostFacts) -> None:
    _, (obstacle,) = plan(roomy, 1_000_000, nofile=1024)
    assert "this command" in obstacle.what
    assert "ulimit -n" in obstacle.fix


def test_no_descriptors_at_all(roomy: HostFacts) -> None:
    _, obstacles = plan(roomy, 1000, nofile=FD_RESERVE)
    assert ["RLIMIT_NOFILE" in obstacle.what for obstacle in obstacles] == [True]


def test_a_trillion_is_refused_and_a_million_planned_at_once(roomy: HostFacts) -> None:
    _, obstacles = plan(roomy, 10**12)
    assert {"source ports", "memory", "processes"} <= {
        obstacle.what.partition(" (")[0] for obstacle in obstacles
    }
    found, none = plan(roomy, 10**6, workers=54)
    assert none == ()
    check(found, 10**6)


def test_the_embedded_server_has_room(roomy: HostFacts) -> None:
    found, _ = plan(roomy, 10**6)
    assert found.server_processes * (found.nofile - FD_RESERVE) > 1.05 * 10**6
    assert plan(roomy, 1000, "127.0.0.9")[0].server_processes == 0


def test_notes(roomy: HostFacts) -> None:
    found, _ = plan(roomy, 10**5, concurrency=5000, rate_per_s=10.0)
    assert "net.core.somaxconn" in found.notes[0]
    assert "2.8 h" in found.notes[1]
    assert plan(roomy, 1000)[0].notes == ()
