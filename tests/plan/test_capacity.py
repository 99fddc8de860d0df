import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from connprobe.model import HostFacts
from connprobe.plan.capacity import (
    FD_RESERVE,
    PROCESS_BYTES,
    UNEVEN,
    Shape,
    bytes_per_connection,
    capacities,
    is_steered,
    pid_max_fix,
    ports_per_source,
    processes_for,
    server_processes_for,
    with_lifts,
)

counts = st.integers(1, 1000) | st.integers(1, 10**12)
descriptors = st.integers(0, 200) | st.integers(0, 1 << 20)
WIDE = Shape(both_ends=True, source_addresses=1 << 20, embedded=True)


@given(counts, descriptors)
def test_processes_have_room(count: int, nofile: int) -> None:
    processes = processes_for(count, nofile)
    assert processes * max(1, nofile - FD_RESERVE) >= count
    assert processes == 1 or (processes - 1) * max(1, nofile - FD_RESERVE) < count


@given(counts, descriptors, st.integers(1, 512))
def test_reuseport_listeners_have_room_for_six_deviations(count: int, nofile: int, cpus: int) -> None:
    """Binomial(count, 1/processes) deviates by under sqrt(mean): six times that comes up once in 10^9."""
    processes = server_processes_for(count, nofile, cpus)
    mean = count / processes
    assert processes >= 1
    uneven = UNEVEN if is_steered(processes, nofile, cpus) else 0
    assert processes >= count or mean + 6 * math.sqrt(mean) + uneven <= max(1, nofile - FD_RESERVE)


def test_listeners_are_steered_where_there_are_many_with_much_room() -> None:
    assert is_steered(23, 20_000, 2)
    assert not is_steered(2, 20_000, 2)  # one a CPU: nothing is spread that could be together
    assert not is_steered(23, 1024, 2)


def test_listeners_are_not_many_more_than_needed() -> None:
    assert server_processes_for(1_000_000, 20_000, 2) in range(55, 61)
    assert server_processes_for(100, 20_000, 8) == 1
    assert server_processes_for(100_000, 200_000, 8) == 8


def test_ports(roomy: HostFacts) -> None:
    assert ports_per_source(roomy, None) == 28_232
    assert ports_per_source(replace(roomy, reserved_ports=32), None) == 28_200
    assert ports_per_source(roomy, (1024, 65535)) == 64_512


@settings(deadline=None)
@given(st.data(), descriptors, counts)
def test_any_host_has_an_answer_in_order(
    hosts: st.SearchStrategy[HostFacts], data: st.DataObject, nofile: int, asked: int
) -> None:
    facts = data.draw(hosts)
    shape = data.draw(
        st.builds(
            Shape,
            both_ends=st.booleans(),
            tls=st.booleans(),
            source_addresses=st.integers(1, 1 << 24),
            ports_per_source=st.integers(-65535, 65535),
            embedded=st.booleans(),
            processes=st.integers(0, 1 << 22),
        )
    )
    found = capacities(facts, nofile, shape, asked)
    assert [each.connections for each in found] == sorted(each.connections for each in found)
    for each in found:
        assert each.connections >= 0
        assert bool(each.fix) == (each.connections < asked)
        assert each.source


@pytest.mark.parametrize(
    ("resource", "limits", "connections", "fix"),
    [
        ("file_max", {"file_max": 3000, "files_in_use": 1000}, 1000, "sysctl -w fs.file-max="),
        ("epoll_watches", {"epoll_watches": 2002}, 1001, "sysctl -w fs.epoll.max_user_watches="),
        ("conntrack", {"conntrack_max": 1000, "conntrack_count": 977}, 23, "nf_conntrack_max="),
        (
            "cgroup_memory",
            {"cgroup_memory_max_bytes": 1 << 30, "cgroup_memory_current_bytes": 1 << 29},
            (1 << 29) // bytes_per_connection(WIDE),
            "memory.max",
        ),
        ("memory", {"memory_available_bytes": 0}, 0, "a machine with"),
        ("threads", {"pid_max": 110}, 100_000, "sysctl -w kernel.pid_max="),
        ("threads", {"process_limit": 110}, 100_000, "ulimit -u "),
        ("threads", {"cgroup_pids_max": 120, "cgroup_pids_current": 110}, 100_000, "pids.max"),
    ],
)
def test_what_binds_comes_first_with_its_fix(
    roomy: HostFacts, resource: str, limits: dict[str, Any], connections: int, fix: str
) -> None:
    asked = 1_000_000
    first = capacities(replace(roomy, **limits), 20_064 - 64, WIDE, asked)[0]
    assert first.resource == resource
    if resource == "threads":  # 10 processes, half of them servers, at 19,936 each
        assert first.connections == pytest.approx(10 / (2 * processes_for(asked, 20_000)) * asked, abs=1)
    else:
        assert first.connections == connections
    assert fix in first.fix


def test_a_process_is_taken_when_the_others_are_full(roomy: HostFacts) -> None:
    """However few connections were asked for: 10 of them with one worker do not make a tenth of one each."""
    facts = replace(roomy, pid_max=roomy.processes_in_use + 3)
    remote = Shape(both_ends=False, processes=1)
    for asked in (10, 4000):
        found = capacities(facts, 20_064, remote, asked)
        (threads,) = [each for each in found if each.source == "/proc/sys/kernel/pid_max"]
        assert threads.per_connection == 1 / 20_000
        assert threads.connections == 60_000
    # Eight workers are planned, and there is room for three: that is too few, though three could hold all.
    found = capacities(facts, 20_064, remote._replace(processes=8), 4000)
    (threads,) = [each for each in found if each.source == "/proc/sys/kernel/pid_max"]
    assert threads.connections < 4000


def test_each_lift_makes_room_for_twice_as_many(roomy: HostFacts) -> None:
    """However much room there is: the table of limits says what is beyond what was asked for."""
    remote = Shape(both_ends=False, source_addresses=3, ports_per_source=28_232, processes=2)
    facts = replace(roomy, conntrack_max=90_000, conntrack_count=500, pid_max=32_768)
    found = {each.source: each for each in with_lifts(facts, 20_064, remote, 97)}
    assert [each.source for each in found.values() if not each.fix] == []
    ports = found["/proc/sys/net/ipv4/ip_local_port_range"]
    assert ports.connections == 3 * 28_232
    assert ports.fix.startswith(
        "--source-ports 1024-65535, or --sysctl auto, or --alias IFACE:CIDR with 6 addr"
    )
    pids, table = found["/proc/sys/kernel/pid_max"], found["/proc/sys/net/netfilter/nf_conntrack_max"]
    mended = replace(
        facts,
        pid_max=int(pids.fix.removeprefix("sysctl -w kernel.pid_max=")),
        conntrack_max=int(re.findall(r"=(\d+)", table.fix)[0]),
    )
    room = {each.source: each.connections for each in capacities(mended, 20_064, remote, 97)}
    for each in (pids, table):
        assert room[each.source] >= 2 * each.connections


def test_no_more_pids_are_proposed_than_the_kernel_takes() -> None:
    assert pid_max_fix(4_194_304) == "sysctl -w kernel.pid_max=4194304"
    assert pid_max_fix(4_194_305) == "more hosts, each with kernel.pid_max=4194304: a kernel takes no more"


def test_the_fix_is_enough(roomy: HostFacts) -> None:
    """Setting what the advice says lifts the limit to what was asked for."""
    asked = 1_000_003
    tight = replace(
        roomy,
        file_max=1000,
        epoll_watches=1000,
        conntrack_max=1000,
        conntrack_count=500,
        pid_max=120,
        process_limit=110,
    )
    fixes = {each.source: each.fix for each in capacities(tight, 20_000, WIDE, asked)}
    told = {
        source: int(number[0])
        for source, fix in fixes.items()
        if (number := re.findall(r"[= ](\d{3,})\b", fix))
    }
    mended = replace(
        tight,
        file_max=told["/proc/sys/fs/file-max"],
        epoll_watches=told["/proc/sys/fs/epoll/max_user_watches"],
        conntrack_max=told["/proc/sys/net/netfilter/nf_conntrack_max"],
        pid_max=told["/proc/sys/kernel/pid_max"],
        process_limit=told["RLIMIT_NPROC"],
    )
    assert capacities(tight, 20_000, WIDE, asked)[0].connections < asked
    assert capacities(mended, 20_000, WIDE, asked)[0].connections >= asked


def test_processes_cost_memory_too(roomy: HostFacts) -> None:
    shape = WIDE._replace(processes=1009)
    (without,) = [each for each in capacities(roomy, 20_000, WIDE, 1000) if each.resource == "memory"]
    (with_them,) = [each for each in capacities(roomy, 20_000, shape, 1000) if each.resource == "memory"]
    lost = 1009 * PROCESS_BYTES / bytes_per_connection(WIDE)
    assert without.connections - with_them.connections == pytest.approx(lost, abs=1)


def test_a_users_own_limit_counts_no_other_users_processes(roomy: HostFacts) -> None:
    busy = replace(roomy, process_limit=150, processes_in_use=5000, user_processes_in_use=20)
    remote = Shape(both_ends=False, processes=8)
    used = {each.source: each.used for each in capacities(busy, 20_064, remote, 4000)}
    assert (used["/proc/sys/kernel/pid_max"], used["RLIMIT_NPROC"]) == (5000, 20)
