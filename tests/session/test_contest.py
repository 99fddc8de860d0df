"""The servers of a bout: who takes a port first, who is quiet, who is dead, and that all of them end."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.model.bout import CompareRequest
from connprobe.plan.suite import parse_suite
from connprobe.session import contest as module
from connprobe.session.contest import Contest
from connprobe.session.interrupts import Interrupts
from connprobe.session.started import free_port
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
