"""ServerMeter over real processes that grow by what they are told to."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cgroupv1 import v1_cgroup
from connprobe.observe.reading import ServerMeter, count_maps
from running import eventually

Start = Callable[..., Any]
MB = 1 << 20
OF_PROCESSES = {
    "rss_bytes",
    "pss_bytes",
    "uss_bytes",
    "fds",
    "process_fds",
    "process_fds_grown",
    "threads",
    "maps",
}

PUPPET = """
import json, mmap, os, sys, threading
print(json.dumps(os.getpid()), flush=True)
kept, gate = [], threading.Event()
for line in sys.stdin:
    answer = None
    match line.split():
        case ["grow", size]:
            block = bytearray(int(size))
            block[::4096] = b"x" * len(block[::4096])
            kept.append(block)
        case ["open", count]:
            kept += [os.dup(0) for _ in range(int(count))]
        case ["threads", count]:
            for _ in range(int(count)):
                threading.Thread(target=gate.wait, daemon=True).start()
        case ["map", count]:  # shared ones of their own objects are not merged into one mapping
            kept += [mmap.mmap(-1, 4096) for _ in range(int(count))]
        case ["child", count]:
            ours, theirs = os.pipe(), os.pipe()
            answer = os.fork()
            if not answer:
                kept += [os.dup(0) for _ in range(int(count))]
                os.write(theirs[1], b"x")
                os.close(ours[1])
                os.read(ours[0], 1)
                os._exit(0)
            os.read(theirs[0], 1)
            kept.append((ours, theirs))
    print(json.dumps(answer), flush=True)
"""


def test_every_metric_grows_by_what_was_taken(start: Start) -> None:
    program = start(PUPPET)
    meter = ServerMeter([program.pid])
    before = meter.read(0)
    assert before.keys() >= OF_PROCESSES | {"memory_bytes", "kernel_bytes", "files", "host_threads"}
    assert not before.keys() & meter.unknown.keys()
    for line in (f"grow {40 * MB}", "open 211", "threads 23", "map 101"):
        program.ask(line)
    after = meter.read(0)
    grown = {metric: after[metric] - before[metric] for metric in before}
    assert 40 * MB <= grown["rss_bytes"] < 60 * MB
    assert 35 * MB <= grown["pss_bytes"] < 60 * MB  # read anew, not as of a moment ago
    assert 40 * MB <= grown["uss_bytes"] < 60 * MB
    assert (grown["fds"], grown["process_fds"]) == (211, 211)
    assert (before["process_fds_grown"], after["process_fds_grown"]) == (0, 211)
    assert grown["threads"] == 23
    assert grown["maps"] >= 101 + 2 * 23 - 5  # a few stacks lie beside each other


LISTENER = """
import json, socket, sys
listener, held = socket.create_server(("127.0.0.1", 0), backlog=128), []
print(json.dumps(listener.getsockname()[1]), flush=True)
for line in sys.stdin:
    word, count = line.split()
    if word == "accept":
        held += [listener.accept()[0] for _ in range(int(count))]
    else:
        held.clear()
    print(json.dumps(len(held)), flush=True)
"""


def test_slabs_are_in_a_reading_where_they_are_the_connections_own(start: Start, as_root: None) -> None:
    program = start(LISTENER)
    meter = ServerMeter([program.pid])
    assert meter.read(0)["kernel_bytes"] == 0
    with ExitStack() as ours:
        for number in range(100, 601, 100):
            for _ in range(100):
                ours.enter_context(socket.create_connection(("127.0.0.1", program.said), timeout=10))
            assert program.ask("accept 100") == number
        use = meter.read(600)
        if meter.kernel is not None and meter.kernel.complete:  # unless others closed as many meanwhile
            assert 3000 < use["kernel_bytes"] / 600 < 20_000
            assert use["memory_bytes"] > use["kernel_bytes"]
        # As if 60,000 had been opened, and all but 600 were closed: too few sockets for what is claimed.
        use = meter.read(60_000)
        assert not use.keys() & {"kernel_bytes", "memory_bytes"}
        assert "120,000 were expected" in meter.unknown["kernel_bytes"]
        assert meter.unknown["memory_bytes"] == meter.unknown["kernel_bytes"]
        assert "rss_bytes" in use
    program.ask("close 0")
    assert "kernel_bytes" not in meter.read(0)  # what slabs keep is no connection's
    assert "no connection" in meter.unknown["kernel_bytes"]
    meter.begin()
    assert meter.read(0)["kernel_bytes"] == 0


def test_a_child_forked_a_moment_ago_is_in_the_next_reading(start: Start) -> None:
    program = start(PUPPET)
    meter = ServerMeter([program.pid])
    alone = meter.read(0)
    child = program.ask("child 307")
    both = meter.reading("peak", 5, 1.5, settled=True)
    assert meter.pids == tuple(sorted([program.pid, child]))
    assert (both.stage, both.connections, both.at_s, both.settled) == ("peak", 5, 1.5, True)
    assert both.processes == 2
    assert both.cpu_s is not None
    assert both.use["process_fds"] - alone["process_fds"] >= 307
    assert both.use["fds"] >= both.use["process_fds"] + alone["fds"]


def test_quick_follows_memory_and_cpu(start: Start) -> None:
    program = start(PUPPET)
    meter = ServerMeter([program.pid])
    before = meter.quick()
    program.ask(f"grow {20 * MB}")
    after = meter.quick()
    assert before is not None
    assert after is not None
    assert after[0] - before[0] >= 20 * MB
    assert after[1] >= before[1] > 0


def test_a_server_that_is_gone_is_found_again(start: Start) -> None:
    program, next_one = start(PUPPET), start(PUPPET)
    meter = ServerMeter([program.pid], find=lambda: [next_one.pid])
    meter.read(0)
    program.end()
    assert meter.quick() is not None
    assert meter.pids == (next_one.pid,)
    assert meter.read(0)["process_fds_grown"] == 0


def test_the_first_descriptors_of_what_has_ended_are_forgotten(start: Start) -> None:
    """Another process may have that pid next; and in days there are many."""
    program = start(PUPPET)
    meter = ServerMeter([program.pid])
    child = program.ask("child 11")
    meter.read(0)
    assert meter._first_fds.keys() == {program.pid, child}
    os.kill(child, signal.SIGKILL)
    assert eventually(lambda: meter.quick() is not None and meter.pids == (program.pid,))
    assert meter._first_fds.keys() == {program.pid}


def test_without_a_process_the_host_is_all_there_is(start: Start) -> None:
    program = start(PUPPET)
    meter = ServerMeter([program.pid])
    program.end()
    use = meter.read(0)
    assert not use.keys() & OF_PROCESSES
    assert {meter.unknown[metric] for metric in OF_PROCESSES} == {"all processes have exited"}
    assert meter.quick() is None
    assert meter.reading("drain", 0, 1.0, settled=False).cpu_s is None


def test_threads_of_a_pids_cgroup(start: Start, as_root: None) -> None:
    program = start(PUPPET)
    with v1_cgroup("pids") as group:
        (group / "pids.max").write_text("97")
        (group / "cgroup.procs").write_text(str(program.pid))
        try:
            meter = ServerMeter([program.pid])
            assert meter.tasks is not None
            assert (meter.tasks.limit, meter.tasks.file) == (97, group / "pids.max")
            assert meter.read(0)["pids"] == 1
            program.ask("threads 31")
            assert meter.read(0)["pids"] == 32
        finally:
            program.end()


def test_memory_of_a_cgroup(start: Start, as_root: None) -> None:
    program = start(PUPPET)
    with v1_cgroup("memory") as group:
        (group / "memory.limit_in_bytes").write_text(str(128 * MB))
        (group / "cgroup.procs").write_text(str(program.pid))
        try:
            meter = ServerMeter([program.pid])
            assert meter.memory is not None
            assert meter.memory.limit_bytes == 128 * MB
            before = meter.read(0)["cgroup_bytes"]
            program.ask(f"grow {40 * MB}")
            assert 40 * MB <= meter.read(0)["cgroup_bytes"] - before < 45 * MB
        finally:
            program.end()


def test_no_cgroup_is_said_and_never_zero(start: Start) -> None:
    program = start(PUPPET)
    meter = ServerMeter([program.pid])
    use = meter.read(0)
    for metric, bound in (("cgroup_bytes", meter.memory), ("pids", meter.tasks)):
        assert (metric in use) == (bound is not None)
        assert (metric in meter.unknown) == (bound is None)


def test_maps_are_counted_line_by_line() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        assert count_maps(pid) == len(Path(f"/proc/{pid}/maps").read_text().splitlines())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with pytest.raises(OSError, match=str(pid)):
        count_maps(pid)
