"""PSS and CPU of this test's own processes, compared with what the kernel accounts to it by another way."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from connprobe.observe.client import cpu_of, pss_of
from connprobe.observe.smaps import read_rollup

Start = Callable[..., Any]

SHARER = """
import mmap, os, signal
block = mmap.mmap(-1, 30 << 20)
block[::4096] = b"x" * len(range(0, len(block), 4096))
pids = [os.getpid()]
ready, touched = os.pipe()
for _ in range(2):
    pid = os.fork()
    if not pid:
        sum(block[::4096])
        os.write(touched, b"x")
        signal.pause()
    pids.append(pid)
    os.read(ready, 1)
print(pids, flush=True)
signal.pause()
"""


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_pss_counts_shared_memory_once(start: Start) -> None:
    program = start(SHARER)
    pids = program.said
    assert len(pids) == 3
    total = pss_of(pids)
    assert total is not None
    assert 30 << 20 <= total < 75 << 20  # three times 30 MiB, had each been counted in full
    assert read_rollup(program.pid).uss_bytes < read_rollup(program.pid).pss_bytes


def test_pss_of_processes_that_exited(start: Start) -> None:
    program = start("print(1, flush=True); input()")
    program.end()
    assert pss_of([program.pid]) is None
    assert pss_of([]) is None
    own = pss_of([program.pid, os.getpid()])
    assert own is not None
    assert own > 1 << 20


def test_cpu_of_a_worker_stays_in_the_sum_when_it_is_waited_for() -> None:
    ready, said = os.pipe()
    worker = os.fork()
    if not worker:
        burn(0.3)
        os.write(said, b"x")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    pids = [os.getpid(), worker]
    apart = cpu_of([worker])
    before = cpu_of(pids)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    os.close(ready)
    os.close(said)
    assert apart >= 0.29
    assert cpu_of([worker]) == 0.0
    assert cpu_of(pids) >= before >= apart


def test_cpu_of_this_process_follows_what_it_burns() -> None:
    before = cpu_of([os.getpid()])
    burn(0.2)
    assert cpu_of([os.getpid()]) - before >= 0.18
