"""`connprobe hold` whose workers are not equally quick: what one does not open, another does."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import servers
from connprobe.plan.stock import TICKET
from running import Command, check, read_plan
from servers import OddServer

COUNT = 2100
# Two workers with 1,050 connections each, and room for 1,336.
LIMITED = ("taskset", "-c", "0", "prlimit", "--nofile=1400:1400", "setpriv", "--bounding-set=-sys_resource")
DEALT = COUNT // 4
ALONE = DEALT + (1336 - DEALT) // TICKET * TICKET  # as many as one takes who is alone
BEGUN = 40

Start = Callable[..., Command]


@contextmanager
def begun(start: Start) -> Iterator[tuple[Command, OddServer]]:
    """A ramp of which the server has answered the first few."""

    def behave(connection: servers.Connection) -> None:
        if connection.index >= BEGUN:
            connection.server.gate.wait(servers.PATIENCE_S)
        servers.websocket(connection)

    with OddServer(behave) as server:
        asked = ("--count", str(COUNT), "--concurrency", "20", "--for", "300ms", "--timeout", "30s")
        command = start("hold", "--target", server.target, *asked, prefix=LIMITED)
        server.wait("accepted", BEGUN + 10)
        yield command, server


def test_one_takes_what_another_is_late_for(start: Start) -> None:
    with begun(start) as (command, server):
        late = command.named("connprobe-w-0")
        os.kill(late, signal.SIGSTOP)
        server.gate.set()
        server.wait("accepted", ALONE)
        os.kill(late, signal.SIGCONT)
        run = check(command.finish(), 0)
    assert [shard.count for shard in read_plan(run).shards] == [COUNT // 2] * 2
    assert (run.record.held, run.record.failed, run.record.dropped) == (COUNT, 0, 0)
    assert server.accepted == COUNT


def test_of_a_worker_that_is_killed_the_other_takes_what_it_has_room_for(start: Start) -> None:
    with begun(start) as (command, server):
        os.kill(command.named("connprobe-w-0"), signal.SIGKILL)
        server.gate.set()
        run = check(command.finish(), 4)
    record = run.record
    assert record.held == ALONE
    lost = record.failures["worker_lost"] + record.drops.get("worker_lost", 0)
    assert (lost, record.failed + record.dropped) == (COUNT - ALONE, COUNT - ALONE)
    assert run.says("Worker 0 was lost in the run: killed by SIGKILL")


def test_what_nobody_took_when_the_run_is_interrupted_was_not_attempted(start: Start) -> None:
    with begun(start) as (command, _server):
        os.kill(command.named("connprobe-w-0"), signal.SIGKILL)
        command.sampled("ramp", '"worker_lost":')
        command.interrupt()
        run = check(command.finish(), 130)
    record = run.record
    lost = record.failures["worker_lost"] + record.drops.get("worker_lost", 0)
    assert lost == DEALT
    assert record.held <= BEGUN
    assert record.not_attempted == COUNT - DEALT - record.held
