"""CPU of a ramp: workers that ended in it count as well."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from connprobe.session.costs import Costs

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: sum(range(100_000))\n"
FORKS = f"""
import os, sys
pid = os.fork()
if not pid:
    exec({BURN!r})
    os._exit(0)
os.waitpid(pid, 0)
print("reaped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def forks() -> Iterator[int]:
    """A process whose child has taken 0.3 s of user CPU, and has ended."""
    command = [sys.executable, "-c", FORKS]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "reaped\n"
    yield process.pid
    process.communicate()


def test_workers_that_ended_count_in_who_forked_them(forks: int) -> None:
    use = Costs(()).cpu([], forks)
    assert 0.2 <= use.client_user_s < 5
    assert use.busiest_worker == 0.0
    assert (use.server_user_s, use.busiest_server) == (None, None)


def test_what_was_spent_before_does_not_count() -> None:
    costs = Costs(())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        sum(range(100_000))
    again = Costs(())
    assert costs.cpu([], 1 << 22).client_user_s > again.cpu([], 1 << 22).client_user_s


def test_who_was_busy_all_the_time_has_a_whole_cpu() -> None:
    """What comes after it, as until the end is noticed, is not shared out."""
    command = [sys.executable, "-c", f"import sys\n{BURN}\nprint(flush=True)\nsys.stdin.read()"]
    costs = Costs(())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as burn:
        assert burn.stdout is not None
        burn.stdout.readline()
        short, whole = costs.cpu([burn.pid], 1 << 22, 0.3), costs.cpu([burn.pid], 1 << 22)
        burn.communicate()
    assert short.busiest_worker >= 0.9
    assert short.busiest_worker > whole.busiest_worker
    assert short.ramp_s <= whole.ramp_s
