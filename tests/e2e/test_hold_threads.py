"""`connprobe hold` where a low limit on descriptors asks for so many workers that they are threads."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import servers
from connprobe.model import HoldPlan
from running import CHECKOUT, Command, Run, bind_by_io_uring, check, eventually, read_plan
from servers import OddServer

Start = Callable[..., Command]
Holds = Callable[..., Run]

# Ten workers; on one CPU, so that they are threads of two processes on any machine.
LIMITED = ("taskset", "-c", "0", "prlimit", "--nofile=600:600", "setpriv", "--bounding-set=-sys_resource")
FEWER = ("taskset", "-c", "0", "prlimit", "--nofile=164:164", "setpriv", "--bounding-set=-sys_resource")
COUNT = 5003


def threads_of(command: Command, name: str) -> int:
    return len(list(Path(f"/proc/{command.named(name)}/task").iterdir()))


@pytest.mark.parametrize(
    "options",
    [
        ("--protocol", "ws", "--ping", "300ms"),
        ("--protocol", "http"),
        ("--protocol", "http", "--http-mode", "stream"),
        ("--protocol", "tcp", "--rate", "4000"),
        ("--protocol", "ws", "--tls", "--reconnect"),
    ],
    ids=["ws", "http", "stream", "tcp at a rate", "tls"],
)
def test_all_are_held(hold: Holds, options: tuple[str, ...]) -> None:
    run = hold("--count", str(COUNT), "--for", "1s", *options, prefix=LIMITED)
    record, plan = run.record, read_plan(run)
    assert (record.held, record.dropped, record.failed) == (COUNT, 0, 0)
    assert (plan.workers, plan.worker_processes) == (10, 2)
    assert (record.client.workers, record.client.worker_processes) == (10, 2)
    if bind_by_io_uring() and options[1] in ("ws", "http") and "--tls" not in options:
        assert record.client.opened_by_io_uring
    if "--ping" in options:
        assert record.pings is not None
        assert record.pings.sent >= COUNT
        assert record.pings.answered == record.pings.sent
    assert run.directory is not None
    assert (run.directory / "workers.log").read_text() == ""


def test_workers_that_somebody_asks_for_are_processes(hold: Holds) -> None:
    run = hold("--count", "97", "--workers", "9", "--for", "10ms")
    assert (run.record.held, read_plan(run).worker_processes) == (97, 9)


def test_where_unshare_is_forbidden_each_is_a_process(hold: Holds) -> None:
    forbidden = (sys.executable, str(CHECKOUT / "tests/forbidden.py"), "unshare")
    run = hold("--count", str(COUNT), "--for", "10ms", prefix=(*LIMITED, *forbidden))
    assert (run.record.held, run.record.failed) == (COUNT, 0)
    assert (read_plan(run).worker_processes, run.record.client.worker_processes) == (10, 10)


def test_no_room_for_threads_is_said(hold: Holds, nobody: tuple[tuple[str, ...], Path]) -> None:
    """More tasks than RLIMIT_NPROC: the plan knows."""
    drop, home = nobody
    limited = ("taskset", "-c", "0", "prlimit", "--nofile=600:600", "--nproc=20:20")
    run = hold("--count", str(COUNT), code=3, prefix=(*limited, *drop), results=home)
    assert run.says("ulimit -u")


def test_a_process_killed_in_the_hold_loses_what_its_threads_held(start: Start) -> None:
    with OddServer(servers.websocket) as server:
        asked = ("--target", server.target, "--count", "997", "--for", "3s")
        command = start("hold", *asked, prefix=FEWER)
        command.sampled("hold")
        assert command.directory is not None
        plan = msgspec.json.decode((command.directory / "plan.json").read_bytes(), type=HoldPlan)
        mine = [shard for shard in plan.shards if shard.index % 2 == 1]
        assert threads_of(command, "connprobe-w-1") == len(mine) + 1
        os.kill(command.named("connprobe-w-1"), signal.SIGKILL)
        run = check(command.finish(), 4)
    lost = sum(shard.count for shard in mine)
    assert (run.record.failures, run.record.drops) == ({}, {"worker_lost": lost})
    assert run.record.held == 997 - lost
    names = ", ".join(str(shard.index) for shard in mine)
    assert run.says(f"Workers {names} were lost in the run: killed by SIGKILL. Their connections count")


def test_concurrency_is_not_exceeded(start: Start) -> None:
    """By threads that open bursts at the same time. Nobody is answered, so that all stay in flight."""
    with OddServer(servers.mute) as server:
        asked = ("--target", server.target, "--count", "997", "--concurrency", "200", "--timeout", "60s")
        command = start("hold", *asked, "--protocol", "ws", prefix=FEWER)
        assert eventually(lambda: server.accepted > 180)
        time.sleep(0.3)  # for those that would be too many
        command.interrupt()
        run = check(command.finish(), 130)
        assert 180 < server.accepted <= 200
    assert max(sample.in_flight for sample in run.samples) == server.accepted
    if bind_by_io_uring():
        assert run.record.client.opened_by_io_uring == server.accepted


def test_ctrl_c_in_the_ramp_leaves_nothing(start: Start) -> None:
    command = start("hold", "--count", str(COUNT), "--rate", "500", prefix=LIMITED)
    command.sampled("ramp")
    pids = [command.named(f"connprobe-w-{number}") for number in range(2)]
    command.interrupt()
    check(command.finish(), 130)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
