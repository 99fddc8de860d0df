"""ProcessGroup over real processes. `now` is given, so no test waits for an interval to pass."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from connprobe.observe import process
from connprobe.observe.process import ProcessGroup

Start = Callable[..., Any]
LATER = 1e6  # past any interval that a costly reading may have earned

# Does as it is told, line by line, and answers each line with JSON.
PUPPET = """
import json, os, sys, time
print(json.dumps([os.getpid(), len(os.listdir("/proc/self/fd")) - 1]), flush=True)
held, children, pipes = [], [], []
for line in sys.stdin:
    answer = None
    match line.split():
        case ["grow", size]:
            block = bytearray(int(size))
            block[::4096] = b"x" * len(range(0, len(block), 4096))
            held.append(block)
        case ["open", count]:
            held += [os.dup(0) for _ in range(int(count))]
        case ["fork", count, seconds]:
            for _ in range(int(count)):
                ours, theirs = os.pipe(), os.pipe()
                child = os.fork()
                if not child:
                    while time.process_time() < float(seconds):
                        pass
                    os.close(ours[1]), os.close(theirs[0])
                    [os.close(end) for pair in pipes for end in pair]
                    os.write(theirs[1], b"x")
                    os.read(ours[0], 1)
                    os._exit(0)
                os.close(ours[0]), os.close(theirs[1])
                os.read(theirs[0], 1)
                children.append(child)
                pipes.append((ours[1], theirs[0]))
            answer = children
        case ["end", how]:
            ours, theirs = pipes.pop()
            os.close(ours)
            os.read(theirs, 1)
            child = children.pop()
            os.waitid(os.P_PID, child, os.WEXITED | (0 if how == "reap" else os.WNOWAIT))
            answer = child
    print(json.dumps(answer), flush=True)
"""

# Samples the pid of its first argument, as the user `nobody`.
STRANGER = """
import json, os, sys
import msgspec
from connprobe.observe.process import ProcessGroup
os.setgroups([]), os.setgid(65534), os.setuid(65534)
pid = int(sys.argv[1])
group = ProcessGroup([pid])
use = group.sample(0.0)
print(json.dumps([msgspec.to_builtins(use), group.reason, group.pss_reason]))
"""

# In a pid namespace of its own: a process ends, and another one gets its pid.
REUSE = """
import json, os, signal
from pathlib import Path
from connprobe.observe.process import ProcessGroup

def started():
    pid = os.fork()
    if not pid:
        signal.pause()
    return pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

first, start_time = started()
group = ProcessGroup([first])
before = group.sample(0.0)
for _ in range(100_000):  # until the start time, which is in ticks, differs as well
    end(first)
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(first - 1))
    second, restarted = started()
    assert first == second
    if restarted != start_time:
        break
after = group.sample(1.0)
end(second)
print(json.dumps([before.pids == (first,), restarted != start_time, after is None, group.reason]))
"""


def test_memory_grows_by_what_a_process_touches(start: Start) -> None:
    program = start(PUPPET)
    group = ProcessGroup([program.pid])
    before = group.sample(0.0)
    program.ask(f"grow {50 << 20}")
    after = group.sample(LATER)
    assert before is not None
    assert after is not None
    assert before.pss_bytes is not None
    assert after.pss_bytes is not None
    assert 50 << 20 <= after.rss_bytes - before.rss_bytes < 60 << 20
    # The interpreter's own pages are shared with other processes that come and go.
    assert 45 << 20 <= after.pss_bytes - before.pss_bytes < 60 << 20
    (detail,) = group.processes
    assert detail.pid == program.pid
    assert detail.rss_bytes == after.rss_bytes
    assert detail.uss_bytes is not None
    assert 50 << 20 <= detail.uss_bytes <= after.pss_bytes
    assert "python" in detail.name
    assert (after.threads, after.complete, group.reason) == (1, True, None)


def test_pss_is_the_last_reading_until_the_next_one_is_due(start: Start) -> None:
    program = start(PUPPET)
    group = ProcessGroup([program.pid])
    before = group.sample(0.0)
    assert group.pss_age_s == 0.0
    program.ask(f"grow {20 << 20}")
    between = group.sample(0.75)
    assert group.pss_age_s == 0.75
    after = group.sample(LATER)
    assert group.pss_age_s == 0.0
    assert before is not None
    assert between is not None
    assert after is not None
    assert between.pss_bytes == before.pss_bytes
    assert between.rss_bytes - before.rss_bytes >= 20 << 20
    assert (after.pss_bytes or 0) - (before.pss_bytes or 0) >= 15 << 20


def test_children_are_found_at_once_and_again_later(start: Start) -> None:
    program = start(PUPPET)
    children = program.ask("fork 3 0")
    group = ProcessGroup([program.pid])
    use = group.sample(0.0)
    assert use is not None
    assert use.pids == tuple(sorted([program.pid, *children]))
    assert len(use.pids) == 4
    assert use.threads == 4
    assert use.rss_bytes == sum(process.rss_bytes for process in group.processes)
    children = program.ask("fork 2 0")
    use = group.sample(LATER)
    assert use is not None
    assert use.pids == tuple(sorted([program.pid, *children]))
    alone = ProcessGroup([program.pid], follow_children=False).sample(0.0)
    assert alone is not None
    assert alone.pids == (program.pid,)


def test_a_server_that_started_connprobe_is_watched_without_it() -> None:
    """The parent of this process is the root; this process and its children are not the server's."""
    use = ProcessGroup([os.getppid()]).sample(0.0)
    assert use is not None
    assert os.getppid() in use.pids
    assert os.getpid() not in use.pids


@pytest.mark.parametrize("how", ["reap", "zombie"])
def test_cpu_of_an_exited_child_is_kept(start: Start, how: str) -> None:
    program = start(PUPPET)
    (child,) = program.ask("fork 1 0.3")
    group = ProcessGroup([program.pid])
    before = group.sample(0.0)
    assert program.ask(f"end {how}") == child
    after = group.sample(1.0)
    again = group.sample(LATER)
    assert before is not None
    assert after is not None
    assert again is not None
    assert child in before.pids
    assert after.pids == again.pids == (program.pid,)
    assert again.cpu_s >= after.cpu_s >= before.cpu_s >= 0.29
    assert sum(process.cpu_s for process in group.processes) < 0.29


def test_descriptors_are_counted_exactly(start: Start) -> None:
    program = start(PUPPET)
    if Path("/proc/self/fd").stat().st_size == 0:
        pytest.skip("/proc/PID/fd has no st_size here: Linux 6.2 or later")
    _, at_first = program.said
    group = ProcessGroup([program.pid])
    before = group.sample(0.0)
    program.ask("open 1511")
    after = group.sample(1.0)
    assert before is not None
    assert after is not None
    assert (before.fds, after.fds) == (at_first, at_first + 1511)


def test_processes_that_are_gone(start: Start) -> None:
    program, other = start(PUPPET), start(PUPPET)
    group = ProcessGroup([program.pid, other.pid])
    before = group.sample(0.0)
    program.end()
    use = group.sample(1.0)
    assert before is not None
    assert use is not None
    assert (use.pids, use.complete) == ((other.pid,), True)
    assert use.cpu_s >= before.cpu_s
    other.end()
    assert group.sample(2.0) is None
    assert group.processes == []
    assert group.reason == "all processes have exited"
    assert ProcessGroup([program.pid]).sample(0.0) is None
    assert ProcessGroup([]).sample(0.0) is None


def test_children_outlive_their_root(start: Start) -> None:
    program = start(PUPPET)
    children = program.ask("fork 2 0")
    group = ProcessGroup([program.pid])
    group.sample(0.0)
    os.kill(program.pid, signal.SIGSTOP)
    for child in children:
        os.kill(child, signal.SIGSTOP)  # or they would end with the pipe to their parent
    os.kill(program.pid, signal.SIGKILL)
    program.process.wait()
    program.process.returncode = None  # so that end() still ends the session
    use = group.sample(1.0)
    assert use is not None
    assert use.pids == tuple(sorted(children))


def test_a_reused_pid_is_another_process(start: Start, as_root: None) -> None:
    program = start(REUSE, within=("unshare", "--pid", "--fork", "--mount-proc"))
    assert program.said == [True, True, True, "all processes have exited"]


def test_another_user_sees_all_but_pss(start: Start, as_root: None) -> None:
    program = start(PUPPET)
    use, reason, pss_reason = start(STRANGER, str(program.pid)).said
    assert (use["pids"], use["complete"], reason) == ([program.pid], True, None)
    assert use["rss_bytes"] > 0
    assert use["pss_bytes"] is None
    assert "run as root" in pss_reason


@pytest.mark.parametrize("hidepid", ["noaccess", "invisible"])
def test_what_proc_hides_is_never_taken_for_nothing(start: Start, as_root: None, hidepid: str) -> None:
    program = start(PUPPET)
    mount = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$@"'
    within = ("unshare", "--mount", "sh", "-c", mount, "sh")
    use, reason, _ = start(STRANGER, str(program.pid), within=within).said
    assert use is None
    assert reason == f"processes {program.pid} may not be read: run as root"
    both = STRANGER.replace("ProcessGroup([pid])", "ProcessGroup([pid, os.getpid()])")
    use, reason, _ = start(both, str(program.pid), within=within).said
    assert use["complete"] is False
    assert program.pid not in use["pids"]
    assert use["rss_bytes"] > 0
    assert str(program.pid) in reason


def test_one_that_may_be_killed_but_not_read_is_not_gone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hidepid=noaccess, and a server of our own user that is not dumpable."""

    def refuse(pid: int, name: str) -> bytes:
        raise psutil.AccessDenied(pid)

    program = start(PUPPET)
    monkeypatch.setattr(process, "_proc", refuse)
    group = ProcessGroup([program.pid])
    assert group.sample(0.0) is None
    assert group.reason == f"processes {program.pid} may not be read: run as root"
    program.end()
    assert group.sample(1.0) is None
    assert group.reason == "all processes have exited"


def test_sampling_while_processes_come_and_go(start: Start) -> None:
    """Children end between and during the readings: never an error, and CPU never goes backwards."""
    code = (
        "import itertools, os, time\n"
        "print(1, flush=True)\n"
        "for turn in itertools.count():\n"
        "    if not os.fork():\n"
        "        until = time.monotonic() + 0.002 * (turn % 11)\n"
        "        while time.monotonic() < until: pass\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    program = start(code)
    group = ProcessGroup([program.pid])
    cpu_s: list[float] = []
    seen: set[int] = set()
    deadline = time.monotonic() + 30
    while len(seen) < 23 and time.monotonic() < deadline:
        use = group.sample(len(cpu_s) * LATER)
        assert use is not None
        cpu_s.append(use.cpu_s)
        seen.update(use.pids)
    assert len(seen) >= 23
    assert cpu_s == sorted(cpu_s)


def test_cpu_of_a_child_that_came_and_went_between_two_looks(start: Start) -> None:
    """What it took before the first look is not in it."""
    program = start(PUPPET)
    program.ask("fork 1 0.3")
    program.ask("end reap")
    group = ProcessGroup([program.pid])
    before = group.sample(0.0)
    program.ask("fork 1 0.23")
    program.ask("end reap")
    after = group.sample(0.5)
    alone = ProcessGroup([program.pid], follow_children=False)
    assert before is not None
    assert after is not None
    assert 0.2 <= after.cpu_s - before.cpu_s < 0.28
    first = alone.sample(0.0)
    program.ask("fork 1 0.2")
    program.ask("end reap")
    last = alone.sample(1.0)
    assert first is not None
    assert last is not None
    assert last.cpu_s - first.cpu_s < 0.1


def test_cpu_of_a_child_that_was_seen_counts_once_after_it_was_waited_for(start: Start) -> None:
    program = start(PUPPET)
    group = ProcessGroup([program.pid])
    before = group.sample(0.0)
    program.ask("fork 1 0.33")  # /proc counts each process in ticks of 10 ms
    seen = group.sample(LATER)
    program.ask("end reap")
    after = group.sample(2 * LATER)
    assert before is not None
    assert seen is not None
    assert after is not None
    assert seen.cpu_s - before.cpu_s >= 0.3
    assert after.cpu_s - seen.cpu_s < 0.1
