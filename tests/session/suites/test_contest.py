"""The servers of a bout: who takes a port first, who is quiet, who is dead, and that all of them end."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.model.bout import CompareRequest
from connprobe.plan.suites.suite import parse_suite
from connprobe.session.interrupts import Interrupts
from connprobe.session.started import free_port
from connprobe.session.suites import contest as module
from connprobe.session.suites.contest import Contest
from connprobe.session.suites.suite import versions
from connprobe.store.rundir import RunDirectory
from running import CHECKOUT, eventually

SUITE = f"""sizes = [5]
[[workload]]
name = "plain"
protocol = "tcp"
[[backend]]
name = "behind"
command = ["${{python}}", "{CHECKOUT}/targets/python_asyncio.py", "127.0.0.1", "${{port}}"]
[[contestant]]
name = "front"
protocol = "tcp"
backends = ["behind"]
files = {{ "note" = "unread" }}
command = ["${{python}}", "{CHECKOUT}/targets/python_asyncio.py", "127.0.0.1", "${{port}}"]
"""
Make = Callable[..., Contest]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """make(text) -> the contest of the suite's contestant, not started yet."""
    with RunDirectory.create(tmp_path, "load", "x") as directory, Interrupts() as interrupts:

        def new(text: str = SUITE) -> Contest:
            suite = parse_suite(text, "s.toml")
            request = CompareRequest(suite=suite, path="s.toml", place=str(tmp_path), sizes=(5,), repeats=1)
            return Contest(request, suite.contestants[0], directory, None, (1024, 1024), interrupts)

        yield new


def test_whoever_took_the_port_first_keeps_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that was free when it was looked for: here it is the one of another server."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        lost = other.getsockname()[1]
        answers = iter([lost, free_port("127.0.0.1"), free_port("127.0.0.1")])
        monkeypatch.setattr(module, "free_port", lambda address: next(answers))
        with make() as contest:
            contest.start()
            assert contest.port != lost
            assert contest.notes == [f"behind: somebody else took port {lost} first"]
            assert [program.name for program, _ in contest.servers] == ["behind", "front"]


def test_where_no_port_is_to_be_had_it_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(module, "free_port", lambda address: other.getsockname()[1])
        with pytest.raises(RunFailed, match="behind: the server ended before it listened"), make() as contest:
            contest.start()


def test_who_does_not_listen_in_time_is_given_more_by_the_key_of_the_suite(make: Make) -> None:
    server = f'"{CHECKOUT}/targets/python_asyncio.py"'
    sleeps = SUITE.replace(server, '"-c", "import time; time.sleep(60)"')
    text = sleeps.replace("[[contestant]]", "startup_s = 0.2\n[[contestant]]")
    with make(text) as contest, pytest.raises(RunFailed, match="behind: the server did not listen") as caught:
        contest.start()
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("startup_s in the suite")
    assert "--startup" not in caught.value.fix


def test_the_end_of_any_of_them_is_told_and_nothing_is_left(make: Make, tmp_path: Path) -> None:
    with make() as contest:
        contest.start()
        pids = [pid for _, server in contest.servers for pid in server.pids()]
        assert len(pids) == 2
        use = contest.group().sample(0.0)
        assert use is not None
        assert use.pids == tuple(contest.servers[1][1].pids()), "what is behind does not count"
        (place,) = tmp_path.glob("*/servers/2-front")
        assert place.stat().st_mode & 0o777 == 0o700
        assert (place / "note").stat().st_mode & 0o777 == 0o600
        assert contest.dead() is None
        os.kill(contest.servers[0][1].pid, 9)
        assert eventually(lambda: contest.dead() is not None)
        assert contest.dead() == "behind ended (killed by SIGKILL)"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_directory_that_cannot_be_made_ends_one_bout_only(make: Make, tmp_path: Path) -> None:
    """Whatever the disk refuses is the reason of this bout, in the words of RunFailed."""
    (directory,) = tmp_path.iterdir()
    (directory / "servers").write_text("in the way")
    with pytest.raises(RunFailed, match=r"servers/1-behind cannot be written: "), make() as contest:
        contest.start()


def test_who_does_not_listen_in_time_is_not_tried_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port may be taken by itself: whose descriptors may not be read is not seen to listen."""
    from connprobe.session import started

    monkeypatch.setattr(started, "_listening", lambda pids, sockets: [])
    text = SUITE.replace("[[contestant]]", "startup_s = 1.0\n[[contestant]]")
    with make(text) as contest, pytest.raises(RunFailed, match="behind: the server did not listen"):
        contest.start()
    assert contest.notes == []


FORKS = """import os, socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(1)
os.fork()
time.sleep(60)
"""


def test_a_process_that_is_forked_in_a_short_bout_is_seen(make: Make, tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(FORKS)
    text = SUITE.replace(f'"{CHECKOUT}/targets/python_asyncio.py", "127.0.0.1"', f'"{tmp_path}/forks.py"')
    with make(text) as contest:
        contest.start()
        (front,) = (server for program, server in contest.servers if program.name == "front")
        group = contest.group()
        assert group.sample(0.0) is not None
        assert eventually(lambda: len(front.pids()) == 2)
        use = group.sample(4.5)  # sooner than those of a longer run are looked for
        assert use is not None
        assert use.pids == front.pids()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('one 1.2')\nprint('more')", "one 1.2"),
        ("import sys; print('two 3.4', file=sys.stderr)", "two 3.4"),
        ("while True: print('yes' * 1000)", ("yes" * 1000)[:200]),
        ("import sys\nwhile True: sys.stdout.write('y')", "y" * 200),
        ("", None),
    ],
)
def test_of_a_version_the_first_line_alone_is_read(tmp_path: Path, code: str, said: str | None) -> None:
    """At once, too, where the output has no end."""
    (tmp_path / "version.py").write_text(code)
    text = SUITE.replace("files =", f'version = ["${{python}}", "{tmp_path}/version.py"]\nfiles =')
    suite = parse_suite(text, "s.toml")
    request = CompareRequest(suite=suite, path="s.toml", place=str(tmp_path), sizes=(5,), repeats=1)
    began = time.monotonic()
    assert versions(request, iter(suite.contestants)) == ({} if said is None else {"front": said})
    assert time.monotonic() - began < 8
