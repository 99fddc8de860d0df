"""Who else used the CPU: real processes, ours and others'."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from connprobe.observe.others import Spent, others, spent
from running import eventually

BUSY = "import os; print(flush=True)\nwhile True: pass"


@pytest.fixture
def busy() -> Iterator[int]:
    """The pid of a process that does nothing but compute."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def used(pid: int) -> float:
    found = spent().get(pid)
    return found.cpu_s if found else 0.0


def test_a_busy_process_is_named_unless_it_is_ours(busy: int) -> None:
    before, began = spent(), time.monotonic()
    first = before[busy].cpu_s
    assert eventually(lambda: used(busy) - first >= 0.3)
    after, elapsed = spent(), time.monotonic() - began
    # Nothing is ours: the test's own processes are strangers too.
    strangers = others(before, after, [], elapsed)
    mine = after[busy].cpu_s - first
    assert strangers.cpus >= mine / elapsed - 0.01
    assert any(f"({busy})" in who for who in strangers.who)
    ours = others(before, after, [os.getpid()], elapsed)
    assert not any(f"({busy})" in who for who in ours.who), "it is our child"
    assert ours.cpus <= strangers.cpus - mine / elapsed + 0.01


def test_by_hand() -> None:
    def one(name: str, parent: int, cpu_s: float, began: int = 1) -> Spent:
        return Spent(name, parent, began, cpu_s)

    before = {1: one("init", 0, 5.0), 2: one("kthreadd", 0, 0.0), 7: one("a", 1, 1.0), 8: one("old", 1, 9.0)}
    after = {
        1: one("init", 0, 5.0),
        2: one("kthreadd", 0, 0.0),
        3: one("ksoftirqd", 2, 4.0),
        7: one("a", 1, 2.0),  # 1 s
        8: one("reused", 1, 0.5, began=2),  # 0.5 s: another process by then
        20: one("us", 1, 3.0),
        21: one("worker", 20, 3.0),
        22: one("of the worker", 21, 3.0),
        30: one("new", 99, 0.25),  # 0.25 s, of a parent that is not seen
    }
    found = others(before, after, [20], 2.0)
    assert found.cpus == pytest.approx(1.75 / 2, abs=1e-3)
    assert found.who == ("a (7) 0.50", "reused (8) 0.25", "new (30) 0.12")


def test_the_second_process_of_a_container_is_no_kernel_thread() -> None:
    after = {1: Spent("init", 0, 1, 5.0), 2: Spent("kthreadd", 1, 1, 3.0), 3: Spent("child", 2, 1, 1.0)}
    assert others({}, after, [1], 1.0).who == ()
    assert others({}, after, [], 1.0).who == ("init (1) 5.00", "kthreadd (2) 3.00", "child (3) 1.00")
    after[2] = Spent("bash", 0, 1, 3.0)  # entered from outside
    assert others({}, after, [1], 1.0).who == ("bash (2) 3.00", "child (3) 1.00")
