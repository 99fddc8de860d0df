"""Fleets of real processes: everything that can happen to them, and nothing left behind."""

import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connprobe.errors import RunFailed
from connprobe.fleet.fleet import Fleet

HERE = str(Path(__file__).parent)
SOURCES = str(Path(__file__).parents[2] / "cli")
COLUMNS = 3

Start = Callable[..., Fleet]


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        os.sched_yield()


def runs(pid: int) -> bool:
    """Neither gone nor a zombie that somebody else has to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(*kinds, log=None, processes=0) -> Fleet of one child per kind, each of which has said hello."""
    fleets: list[Fleet] = []

    def starter(*kinds: Any, log: Any = None, processes: int = 0) -> Fleet:
        tasks = [kind if isinstance(kind, tuple) else (kind,) for kind in kinds]
        fleet = Fleet("children", "probe-t", tasks, COLUMNS, log, path=HERE, processes=processes)
        fleets.append(fleet)
        hellos = hear(fleet, "hello", len(kinds))
        assert [hellos[index][0] for index in range(len(kinds))] == list(map(fleet.pid_of, range(len(kinds))))
        assert {parent for _, parent, *_ in hellos.values()} == {fleet.zygote_pid}
        assert {hello[-1] for hello in hellos.values()} == {(fleet.zygote_pid, tasks[0][0])}  # prepared once
        return fleet

    yield starter
    for fleet in fleets:
        fleet.stop(0)


def hear(fleet: Fleet, kind: str, count: int) -> dict[int, tuple[Any, ...]]:
    """The next message of that kind from `count` children."""
    heard: dict[int, tuple[Any, ...]] = {}
    deadline = time.monotonic() + 10
    while len(heard) < count:
        assert time.monotonic() < deadline, f"only {len(heard)} of {count} said {kind}"
        for index, message in fleet.poll(0.5):
            assert message[0] == kind
            heard[index] = message[1:]
    return heard


def lose(fleet: Fleet, count: int = 1) -> dict[int, str]:
    def lost() -> bool:
        assert fleet.poll(0.2) == []
        return len(fleet.lost) == count

    eventually(lost)
    return fleet.lost


def test_messages_both_ways_and_counters_between(start: Start) -> None:
    fleet = start("plain", "plain", "plain")
    for number in (5, 18):
        fleet.send("add", number)
        answers = hear(fleet, "added", 3)
    assert answers == {0: (23,), 1: (23,), 2: (23,)}
    assert fleet.table.column(0) == [23, 23, 23]
    assert fleet.alive == [0, 1, 2]
    assert sorted(fleet.stop(5)) == [(index, ("bye", 23)) for index in range(3)]
    assert fleet.lost == {}


def test_stop_leaves_nothing_and_may_be_called_again(start: Start) -> None:
    before = descriptors()
    fleet = start("plain", "plain")
    fleet.send("add", 7)
    hear(fleet, "added", 2)
    fleet.stop(5)
    assert not any(runs(pid) for pid in (*fleet.pids, fleet.zygote_pid))
    assert fleet.stop(5) == []
    assert fleet.alive == []
    assert fleet.poll(0) == []
    fleet.send("add", 1)
    assert fleet.table.total(0) == 14  # what was counted outlives those who counted
    del fleet.table
    assert descriptors() == before


def test_the_context_manager_stops(tmp_path: Path) -> None:
    with Fleet("children", "probe-t", [("plain",)], COLUMNS, path=HERE) as fleet:
        assert all(runs(pid) for pid in fleet.pids)
    assert not any(runs(pid) for pid in (*fleet.pids, fleet.zygote_pid))


def test_names_for_ps(start: Start) -> None:
    fleet = start("plain", "plain")
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in (*fleet.pids, fleet.zygote_pid)]
    assert names == ["probe-t-0", "probe-t-1", "probe-t-z"]


def test_a_crash_is_told_and_its_traceback_goes_to_the_log(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "workers.log"
    with log.open("xb") as stream:
        fleet = start("plain", "victim", "plain", log=stream)
    fleet.send("crash")
    assert lose(fleet) == {1: "ended with status 1"}
    assert fleet.alive == [0, 2]
    assert "ZeroDivisionError: the test asked for it" in log.read_text()
    fleet.stop(5)
    assert capfd.readouterr() == ("", "")


def test_without_a_log_the_terminal_stays_clean(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    fleet = start("victim")
    fleet.send("crash")
    assert lose(fleet) == {0: "ended with status 1"}
    fleet.stop(5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGSEGV, "killed by SIGSEGV"),
        (signal.SIGRTMIN + 3, f"killed by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_a_signal_is_named(start: Start, number: int, how: str) -> None:
    fleet = start("plain", "plain")
    os.kill(fleet.pids[1], number)
    assert lose(fleet) == {1: how}


def test_a_child_that_leaves_early_is_lost(start: Start) -> None:
    fleet = start("victim", "plain")
    fleet.send("leave")
    assert lose(fleet) == {0: "ended with status 0"}
    fleet.send("add", 1)  # the others do not notice
    assert hear(fleet, "added", 1) == {1: (1,)}


def test_last_words_are_heard_though_a_command_was_not(start: Start) -> None:
    fleet = start("victim", "plain")
    fleet.send("part")
    fleet.send("add", 1)
    eventually(lambda: not runs(fleet.pids[0]))  # closed, with what came for it unread: a reset
    said: dict[int, tuple[Any, ...]] = {}
    deadline = time.monotonic() + 10
    while len(said) < 2 and time.monotonic() < deadline:
        said |= dict(fleet.poll(0.2))
    assert said == {0: ("parted",), 1: ("added", 1)}
    assert lose(fleet) == {0: "ended with status 0"}


def test_a_dead_zygote_leaves_the_children_at_work(start: Start) -> None:
    fleet = start("plain", "victim")
    os.kill(fleet.zygote_pid, signal.SIGKILL)
    fleet.send("add", 3)
    assert hear(fleet, "added", 2) == {0: (3,), 1: (3,)}
    fleet.send("leave")
    assert lose(fleet) == {1: "ended, nobody knows how"}
    assert fleet.stop(5) == [(0, ("bye", 3))]
    eventually(lambda: not runs(fleet.pids[0]))


def test_who_does_not_listen_is_killed(start: Start) -> None:
    fleet = start("plain", "deaf")
    assert fleet.stop(0.3) == [(0, ("bye", 0))]
    assert not any(runs(pid) for pid in (*fleet.pids, fleet.zygote_pid))
    assert fleet.lost == {}


def test_a_stopped_child_is_killed_too(start: Start) -> None:
    fleet = start("plain", "plain")
    os.kill(fleet.pids[0], signal.SIGSTOP)
    for _ in range(101):  # more than its queue takes: sending must not wait for it
        fleet.send("add", 0)
    assert (0, ("bye", 0)) not in fleet.stop(0.3)
    assert not any(runs(pid) for pid in (*fleet.pids, fleet.zygote_pid))


def test_54_children_and_more_reports_than_the_zygotes_queue_takes(start: Start) -> None:
    fleet = start(*["plain"] * 54)
    fleet.send("add", 2)
    assert len(hear(fleet, "added", 54)) == 54
    assert fleet.table.total(0) == 108
    assert len(fleet.stop(10)) == 54
    assert fleet._zygote.returncode == 0  # it was not killed: all were reaped
    assert not any(runs(pid) for pid in fleet.pids)


def test_threads_are_told_heard_and_counted_as_processes_are(start: Start) -> None:
    before = descriptors()
    fleet = start(*["plain"] * 7, processes=3)
    assert len(set(fleet.pids)) == 3
    assert [fleet.pid_of(index) for index in range(7)] == [*fleet.pids, *fleet.pids, fleet.pids[0]]
    fleet.tell(4, "add", 5)
    assert hear(fleet, "added", 1) == {4: (5,)}
    fleet.send("add", 18)
    hear(fleet, "added", 7)
    assert fleet.table.column(0) == [18, 18, 18, 18, 23, 18, 18]
    assert sorted(fleet.stop(5)) == [(index, ("bye", 23 if index == 4 else 18)) for index in range(7)]
    assert fleet.lost == {}
    assert not any(runs(pid) for pid in (*fleet.pids, fleet.zygote_pid))
    del fleet.table
    assert descriptors() == before


def test_each_thread_has_the_descriptors_of_a_process(start: Start) -> None:
    fleet = start(*["plain"] * 5, processes=2)
    for pid in fleet.pids:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (101, hard))
    fleet.send("take")  # all at once
    taken = hear(fleet, "taken", 5)
    assert len(set(taken.values())) == 1
    assert 80 < taken[0][0] < 101
    for pid in fleet.pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            links = [str(each.readlink()) for each in (task / "fd").iterdir()]
            sockets = sum(link.startswith("socket:") for link in links)
            assert sockets == (0 if task.name == str(pid) else 1)  # its own control


def test_a_thread_that_fails_is_lost_alone(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "workers.log"
    with log.open("xb") as stream:
        fleet = start("plain", "plain", "plain", "victim", "plain", log=stream, processes=2)
    fleet.send("crash")
    assert lose(fleet) == {3: "ended by an error (workers.log)"}
    assert "ZeroDivisionError: the test asked for it" in log.read_text()
    assert fleet.living_pids == sorted(fleet.pids)
    fleet.send("add", 1)
    assert sorted(hear(fleet, "added", 4)) == [0, 1, 2, 4]
    fleet.stop(5)
    assert sorted(fleet.lost) == [3]


def test_a_killed_process_loses_all_its_threads(start: Start) -> None:
    fleet = start(*["plain"] * 5, processes=2)
    os.kill(fleet.pids[1], signal.SIGKILL)
    assert lose(fleet, 2) == {1: "killed by SIGKILL", 3: "killed by SIGKILL"}
    assert (fleet.alive, fleet.living_pids) == ([0, 2, 4], [fleet.pids[0]])


def test_threads_that_cannot_start_are_refused() -> None:
    code = """
import resource, sys
from connprobe.errors import RunFailed
from connprobe.fleet.fleet import Fleet
resource.setrlimit(resource.RLIMIT_AS, (80 << 20, 80 << 20))  # bytes: a stack takes one MiB
try:
    Fleet("children", "probe-t", [("plain",)] * 199, 3, path=sys.argv[1], processes=2)
except RunFailed as failure:
    print(failure.message, failure.fix, sep="\\n")
"""
    message, fix = run_apart(code, HERE).splitlines()
    assert message == "could not start 199 threads in 2 processes: a thread could not be started"
    assert "ulimit -u" in fix
    assert subprocess_children() == []


def test_a_thread_that_does_not_listen_is_killed(start: Start) -> None:
    fleet = start("plain", "plain", "deaf", "plain", processes=2)
    assert sorted(fleet.stop(0.3)) == [(0, ("bye", 0)), (1, ("bye", 0)), (3, ("bye", 0))]
    assert not any(runs(pid) for pid in (*fleet.pids, fleet.zygote_pid))


def test_descriptors_above_what_select_takes(start: Start) -> None:
    with Path("/dev/null").open() as null:
        many = [os.dup(null.fileno()) for _ in range(1100)]
    try:
        fleet = start("plain")
    finally:
        for fd in many:
            os.close(fd)
    os.kill(fleet.pids[0], signal.SIGKILL)
    assert lose(fleet) == {0: "killed by SIGKILL"}


def test_tasks_larger_than_a_pipe(start: Start) -> None:
    fleet = start(("plain", b"x" * 200_003), ("plain", b"y" * 300_007))
    fleet.send("length")
    assert hear(fleet, "length", 2) == {0: (200_003,), 1: (300_007,)}


def test_a_module_that_does_not_exist(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = descriptors()
    log = tmp_path / "workers.log"
    with log.open("xb") as stream, pytest.raises(RunFailed) as caught:
        Fleet("no_such_module", "probe-t", [("plain",)] * 3, COLUMNS, stream, path=HERE)
    assert "could not start 3 processes" in caught.value.message
    assert "workers.log" in (caught.value.fix or "")
    assert "No module named 'no_such_module'" in log.read_text()
    assert capfd.readouterr() == ("", "")
    assert subprocess_children() == []
    del caught
    assert descriptors() == before


def test_too_few_descriptors_to_start() -> None:
    code = """
import gc, os, resource
from connprobe.errors import RunFailed
from connprobe.fleet.fleet import Fleet
before = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
try:
    Fleet("children", "probe-t", [("plain",)] * 23, 3, path=os.sys.argv[1])
except RunFailed as refused:
    print(refused.message)
gc.collect()
assert len(os.listdir("/proc/self/fd")) == before
"""
    assert "could not start 23 processes: Too many open files" in run_apart(code, HERE)


def test_too_few_processes_to_start() -> None:
    """RLIMIT_NPROC binds whoever is not root: first the zygote cannot be forked, then not all children."""
    if os.geteuid() != 0:
        pytest.skip("becomes another user: run the tests as root")
    code = """
import os, pathlib, resource, sys
from connprobe.errors import RunFailed
from connprobe.fleet.fleet import Fleet
def mine():
    return [p for p in pathlib.Path("/proc").glob("[0-9]*") if p.stat().st_uid == os.getuid()]
os.setgroups([]); os.setgid(54321); os.setuid(54321)
for limit in (1, 5):
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, 5))
    try:
        Fleet("children", "probe-t", [("plain",)] * 23, 3, path=sys.argv[1])
    except RunFailed as refused:
        print(refused.message, "|", refused.fix)
    assert [p.name for p in mine()] == [str(os.getpid())], mine()
"""
    said = run_apart(code, HERE, python="/usr/bin/python3").splitlines()
    assert len(said) == 2
    for line in said:
        assert "could not start 23 processes: Resource temporarily unavailable" in line
        assert "ulimit -u" in line


def test_a_killed_supervisor_takes_all_with_it(tmp_path: Path) -> None:
    code = """
import sys, time
from connprobe.fleet.fleet import Fleet
fleet = Fleet("children", "probe-t", [("plain",), ("deaf",)], 3, path=sys.argv[1])
print(fleet.zygote_pid, *fleet.pids, flush=True)
while True:
    fleet.poll(60)
"""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, HERE], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert supervisor.stdout is not None
    with supervisor.stdout:
        pids = [int(text) for text in supervisor.stdout.readline().split()]
        assert len(pids) == 3
        assert all(runs(pid) for pid in pids)
        supervisor.kill()
        supervisor.wait()
    eventually(lambda: not any(runs(pid) for pid in pids))


def test_the_terminals_signals_are_for_the_supervisor(tmp_path: Path) -> None:
    """Signals to the whole process group, as ^C and ^\\ send them, from before the zygote's first line on."""
    code = """
import os, signal, sys
from connprobe.fleet.fleet import Fleet
count = 0
def note(number, frame):
    global count
    count += 1
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, note)
if os.fork() == 0:
    try:
        for _ in range(200):
            os.killpg(0, signal.SIGINT)
            signal.sigtimedwait([], 0.001)
    finally:
        os._exit(0)
fleet = Fleet("children", "probe-t", [("plain",)] * 3, 3, path=sys.argv[1])
os.wait()
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    os.killpg(0, number)
fleet.send("add", 1)
messages = []
while len(messages) < 6:
    messages += fleet.poll(5)
assert not fleet.lost
print(len(fleet.alive), fleet.table.total(0), count > 4)
fleet.stop(5)
"""
    assert run_apart(code, HERE).split() == ["3", "3", "True"]


def test_nothing_is_imported_from_where_it_runs(tmp_path: Path) -> None:
    for name in ("marshal", "socket", "gc", "signal", "mmap", "connprobe", "importlib", "children"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the wrong place')\n")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('imported from the wrong place')\n")
    code = """
import os, sys
from connprobe.fleet.fleet import Fleet
trap = sys.argv[2]
os.chdir(trap)
os.environ.update(PYTHONPATH=trap, PYTHONSTARTUP=trap + "/socket.py", PYTHONUSERBASE=trap, PYTHONHOME="")
with Fleet("children", "probe-t", [("plain",)], 3, path=sys.argv[1]) as fleet:
    (_, hello), = fleet.poll(10)
    assert trap not in hello[4] and "" not in hello[4], hello
    fleet.send("modules", "socket", "signal", "connprobe", "children")
    (_, found), = fleet.poll(10)
print(*found[1].values(), sep="\\n")
"""
    files = run_apart(code, HERE, str(tmp_path)).split()
    assert len(files) == 4
    assert files[2:] == [f"{SOURCES}/connprobe/__init__.py", f"{HERE}/children.py"]
    assert not any(file.startswith(str(tmp_path)) for file in files)


def test_children_inherit_no_descriptor_of_the_command(start: Start) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        os.set_inheritable(theirs.fileno(), True)
        inode = os.fstat(theirs.fileno()).st_ino
        fleet = start("plain", "plain")
        fds = [list(Path(f"/proc/{pid}/fd").iterdir()) for pid in fleet.pids]
        links = [[str(fd.readlink()) for fd in each] for each in fds]
    assert all(f"socket:[{inode}]" not in each for each in links)
    assert [sum(link.startswith("socket:") for link in each) for each in links] == [1, 1]  # its own control


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCES, "PYTHONDONTWRITEBYTECODE": "1"}


def run_apart(code: str, *arguments: str, python: str = sys.executable) -> str:
    """The output of a program of its own session; nothing on stderr, status 0."""
    done = subprocess.run(
        [python, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        start_new_session=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def subprocess_children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
