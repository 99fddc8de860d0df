"""The ceilings of real processes, under limits that the test sets for them."""

import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgroupv1 import v1_cgroup
from connprobe.model import Ceiling
from connprobe.observe.ceilings import Ceilings, server_ceilings
from connprobe.observe.reading import ServerMeter
from connprobe.system.facts import read_facts

Start = Callable[..., Any]
MB = 1 << 20

# Forks as many children as it is told, and waits.
FAMILY = """
import json, os, signal, sys
children = []
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if not child:
        signal.pause()
    children.append(child)
print(json.dumps([os.getpid(), children]), flush=True)
sys.stdin.read()
"""
ALONE = """
import json, os, sys
print(json.dumps(os.getpid()), flush=True)
sys.stdin.read()
"""
EPOLL = ALONE.replace("import", "import select,").replace("sys.stdin", "poll = select.epoll()\nsys.stdin")
# Opens files until it may not any more, and says how many were open at once.
FILL = """
import json, os, sys
print(json.dumps(os.getpid()), flush=True)
for line in sys.stdin:
    count = len(os.listdir("/proc/self/fd")) - 1
    try:
        while True:
            os.dup(0)
            count += 1
    except OSError:
        print(json.dumps(count), flush=True)
"""
# Has a child that waits, and opens 100 files itself.
PARENT = """
import json, os, signal, sys
child = os.fork()
if not child:
    signal.pause()
print(json.dumps(os.getpid()), flush=True)
for line in sys.stdin:
    for _ in range(100):
        os.dup(0)
    print(json.dumps(len(os.listdir("/proc/self/fd")) - 1), flush=True)
os.kill(child, 9)
"""


def _ceilings(*pids: int, **options: Any) -> Ceilings:
    return server_ceilings(ServerMeter(pids), read_facts(), **options)


def _one(found: Ceilings, name: str) -> Ceiling:
    (ceiling,) = [each for each in found.found if each.resource == name]
    return ceiling


def test_descriptors_end_where_it_says(start: Start) -> None:
    program = start(FILL)
    hard = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (307, hard))
    nofile = _one(_ceilings(program.pid), "nofile")
    assert (nofile.capacity, nofile.metric, nofile.exact) == (307, "process_fds", True)
    assert nofile.source == f"/proc/{program.pid}/limits"
    assert f"prlimit --pid {program.pid} --nofile=614:{hard} now" in nofile.fix  # the hard one stays
    assert "ulimit -Sn 614" in nofile.fix or "LimitNOFILE=614:" in nofile.fix
    assert f"{hard:,}" in (nofile.note or "")
    meter = ServerMeter([program.pid])
    assert program.ask("fill") == 307
    assert meter.read(0)["process_fds"] == 307


def test_no_remedy_names_a_process_that_will_be_gone(start: Start, as_root: None) -> None:
    nobody = ("prlimit", "--nproc=409", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    program = start(ALONE, within=nobody)
    now, gone = (_ceilings(program.pid, ended=ended) for ended in (False, True))
    assert sum(f"--pid {program.pid}" in each.fix for each in now.found) == 2  # nofile and nproc
    assert not [each for each in gone.found if str(program.pid) in each.fix]
    assert re.search(r"ulimit -S?n \d+ before it starts", _one(gone, "nofile").fix)
    (nproc,) = [each for each in gone.found if each.scope == "user 65534" and each.resource == "threads"]
    assert nproc.fix == "ulimit -Su 818 before it starts"


def test_of_workers_the_tightest_counts_and_not_their_master(start: Start) -> None:
    master, (wide, tight) = start(FAMILY, "2").said
    for pid, soft in ((master, 101), (wide, 503), (tight, 211)):
        resource.prlimit(
            pid, resource.RLIMIT_NOFILE, (soft, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1])
        )
    nofile = _one(_ceilings(master), "nofile")
    assert (nofile.capacity, nofile.scope) == (211, f"server (pid {tight})")
    assert "each of 2 processes (714 in all)" in (nofile.note or "")


def test_a_parent_that_takes_connections_is_no_mere_master(start: Start) -> None:
    family = start(PARENT)
    meter = ServerMeter([family.pid])
    assert _one(server_ceilings(meter, read_facts()), "nofile").processes == 1
    used = family.ask("fill")
    assert meter.quick() is not None
    nofile = _one(server_ceilings(meter, read_facts()), "nofile")
    assert (nofile.processes, nofile.used) == (2, used)
    assert "each of 2 processes" in (nofile.note or "")


def test_what_the_host_allows_is_there_with_its_command(start: Start) -> None:
    program = start(ALONE)
    found = _ceilings(program.pid)
    facts = read_facts()
    assert found.unknown.keys() == {"epoll_watches"}
    assert _one(found, "nr_open").capacity == facts.nr_open
    assert _one(found, "max_map_count").capacity == int(Path("/proc/sys/vm/max_map_count").read_text())
    memory = _one(found, "memory")
    assert (memory.metric, memory.unit, memory.exact) == ("memory_bytes", "bytes", False)
    assert 0 < memory.capacity < facts.memory_total_bytes
    sources = {each.source for each in found.found if each.resource == "threads"}
    assert sources >= {"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"}
    assert all(each.fix and each.source and each.capacity > 0 for each in found.found)


def test_epoll_watches_are_shared_with_a_client_of_the_same_user(start: Start) -> None:
    program = start(EPOLL)
    assert _one(_ceilings(program.pid), "epoll_watches").per_connection == 2
    assert _one(_ceilings(program.pid, same_host=False), "epoll_watches").per_connection == 1


def test_a_server_without_epoll_takes_no_watches(start: Start) -> None:
    found = _ceilings(start(ALONE).pid)
    assert not [each for each in found.found if each.resource == "epoll_watches"]
    assert "no epoll was seen" in found.unknown["epoll_watches"]


def test_another_users_server_is_bound_by_nproc_and_file_max(start: Start, as_root: None) -> None:
    nobody = ("prlimit", "--nproc=409", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    program, beside = start(EPOLL, within=nobody), start(ALONE, within=nobody)
    found = _ceilings(program.pid)
    (nproc,) = [each for each in found.found if each.scope == "user 65534" and each.resource == "threads"]
    assert nproc.metric == "threads"
    assert nproc.capacity <= 408  # `beside` is one of the user's, and there may be more
    assert "RLIMIT_NPROC 409, less" in (nproc.note or "")
    assert _one(found, "epoll_watches").per_connection == 1
    assert _one(found, "file_max").metric == "files"
    beside.end()
    again = [each for each in _ceilings(program.pid).found if each.scope == "user 65534"]
    assert any(each.capacity > nproc.capacity for each in again if each.resource == "threads")


def test_who_is_exempt_has_no_such_ceiling(start: Start, as_root: None) -> None:
    found = _ceilings(start(ALONE).pid)
    assert not [each for each in found.found if each.source.startswith("Max processes")]


@pytest.mark.parametrize(
    ("controller", "file", "name"),
    [("memory", "memory.limit_in_bytes", "cgroup_memory"), ("pids", "pids.max", "threads")],
)
def test_the_servers_cgroup(start: Start, as_root: None, controller: str, file: str, name: str) -> None:
    program = start(ALONE)
    with v1_cgroup(controller) as group:
        (group / file).write_text(str(64 * MB if controller == "memory" else 199))
        (group / "cgroup.procs").write_text(str(program.pid))
        try:
            found = _ceilings(program.pid)
        finally:
            program.end()
    (ceiling,) = [each for each in found.found if each.scope.startswith("cgroup /")]
    assert ceiling.resource == name
    assert ceiling.scope.endswith(group.name)
    assert ceiling.source == str(group / file)
    assert ceiling.used is not None
    assert ceiling.used < ceiling.capacity  # 0 of memory: what it had before stays charged elsewhere
    if controller == "pids":
        assert ceiling.capacity == 199
    assert f"> {group / file}" in ceiling.fix


def test_a_server_that_is_gone(start: Start) -> None:
    program = start(ALONE)
    meter = ServerMeter([program.pid])
    facts = read_facts()
    program.end()
    assert meter.quick() is None
    assert server_ceilings(meter, facts) == Ceilings((), {"server": "all processes have exited"})


def test_one_that_goes_while_it_is_asked(start: Start) -> None:
    program = start(ALONE)
    meter = ServerMeter([program.pid])
    facts = read_facts()
    program.end()
    found = server_ceilings(meter, facts)  # the meter does not know yet
    assert "nofile" in found.unknown
    assert not [each for each in found.found if each.resource == "nofile"]
    assert os.getpid() not in meter.pids
