"""Servers that connprobe starts: where they listen, how they end, and that nothing of them stays."""

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.session.started import Place, StartedServer, free_port, printable, taken
from running import CHECKOUT, eventually

VICTIM = (sys.executable, str(CHECKOUT / "tests" / "victim.py"))
Starts = Callable[..., StartedServer]


def never() -> bool:
    return False


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Starts]:
    started: list[StartedServer] = []

    def start(*command: str, nofile: int = 1024, hard: int = 4096, **environment: str) -> StartedServer:
        path = tmp_path / f"server-{len(started)}.log"
        with path.open("w+b") as log:
            started.append(StartedServer(command, environment, log, path, (nofile, hard)))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_its_one_port_is_found_by_itself(begin: Starts) -> None:
    port = free_port("127.0.0.1")
    server = begin(*VICTIM, str(port))
    assert server.wait_until_listening(None, 20, never) == Place("127.0.0.1", port)
    assert server.pids() == (server.pid,)
    assert taken(port) == (server.pid,)
    server.stop()
    assert not alive(server.pid)
    assert taken(port) is None


def test_a_process_may_have_any_name(begin: Starts) -> None:
    """Bytes that are no text, and look like more of /proc/PID/stat."""
    name = b"\xc3) Z 1 \xff"
    code = f"open('/proc/self/comm', 'wb').write({name!r}); import signal; signal.pause()"
    server = begin(sys.executable, "-c", code)
    comm = Path(f"/proc/{server.pid}/comm")
    assert eventually(lambda: comm.read_bytes() == name + b"\n")
    assert server.pids() == (server.pid,)
    server.stop()
    assert not Path(f"/proc/{server.pid}").exists()


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here: apt-get install nodejs")
def test_one_that_cannot_load_the_preload_is_told_how_to_go_without(begin: Starts) -> None:
    """As in a mount namespace that has another /tmp."""
    preload = "/nowhere/connprobe-node-x/y/preload.cjs"
    server = begin("node", "-e", "0", NODE_OPTIONS=f"--require {preload}")
    with pytest.raises(RunFailed) as failure:
        server.wait_until_listening(None, 20, never)
    assert failure.value.fix is not None
    assert failure.value.fix.endswith("-- env -u NODE_OPTIONS -u CONNPROBE_HEAP_SOCKETS node -e 0")


@pytest.mark.parametrize(
    ("address", "both", "reached"),
    [
        ("0.0.0.0", False, "127.0.0.1"),
        ("::", True, "127.0.0.1"),
        ("::", False, "::1"),
        ("::1", False, "::1"),
    ],
)
def test_the_wildcard_is_reached_by_the_loopback(
    begin: Starts, address: str, both: bool, reached: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listen = f"socket.create_server(({address!r}, 0), family={int(family)}, dualstack_ipv6={both})"
    code = f"import socket; s = {listen}; s.accept()"
    place = begin(sys.executable, "-c", code).wait_until_listening(None, 20, never)
    assert place is not None
    assert place.address == reached
    socket.create_connection((place.address, place.port)).close()


def test_several_ports_have_to_be_told_apart(begin: Starts) -> None:
    code = "import socket; a, b = [socket.create_server(('127.0.0.1', 0)) for _ in 'ab']; a.accept()"
    with pytest.raises(RunFailed, match="listens on several ports") as failed:
        begin(sys.executable, "-c", code).wait_until_listening(None, 20, never)
    assert (failed.value.fix or "").startswith("--port ")


def test_the_descriptor_limit_is_the_shells_and_not_ours(begin: Starts, tmp_path: Path) -> None:
    server = begin("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc", nofile=333, hard=777)
    assert eventually(lambda: not server.pids())
    assert server.tail().split() == ["333", "777", "0"]
    assert server.status == 0


def test_it_is_in_our_directory_and_has_our_variables_and_its_own(begin: Starts) -> None:
    server = begin("sh", "-c", 'pwd; echo "$ADDED"; echo "$HOME"', ADDED="here")
    assert eventually(lambda: not server.pids())
    assert server.tail().split() == [str(Path.cwd()), "here", os.environ["HOME"]]


def test_it_inherits_nothing_of_ours(begin: Starts) -> None:
    server = begin("ls", "-l", "/proc/self/fd")
    assert eventually(lambda: not server.pids())
    found = {line.split()[-3] for line in server.tail().splitlines() if "->" in line}
    assert found == {"0", "1", "2", "3"}  # the last is the listed directory itself


def test_one_that_does_nothing_but_print_does_not_fill_the_disk(begin: Starts) -> None:
    server = begin("sh", "-c", "head -c 70000000 /dev/zero; sleep 60")
    assert eventually(lambda: server.log_path.stat().st_size >= 1 << 26 or not server.log_path.stat().st_size)
    assert eventually(lambda: server.log_path.stat().st_size == 0)


def test_what_it_printed_is_read_from_its_own_log_whatever_has_its_name_by_now(begin: Starts) -> None:
    server = begin("echo", "my words")
    assert eventually(lambda: not server.pids())
    server.log_path.unlink()
    server.log_path.write_text("another's")
    assert server.tail() == "my words\n"


def test_how_it_ended(begin: Starts) -> None:
    killed = begin("sh", "-c", "kill -ABRT $$")
    assert eventually(lambda: not killed.pids())
    assert killed.ending() == "killed by SIGABRT"
    status = begin("sh", "-c", "exit 9")
    assert eventually(lambda: not status.pids())
    assert status.ending() == "exit status 9"


def test_what_cannot_be_started_is_said_so(begin: Starts, tmp_path: Path) -> None:
    script = tmp_path / "no-program"
    script.write_text("")
    with pytest.raises(RunFailed, match="could not be started: Permission denied"):
        begin(str(script))


def test_a_working_directory_that_was_removed_is_said(
    begin: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    gone.rmdir()
    with pytest.raises(RunFailed, match="could not be started: No such file or directory") as failed:
        begin("true")
    assert "a directory that exists" in (failed.value.fix or "")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_what_it_forked_ends_with_it_though_it_ignores_sigterm(begin: Starts) -> None:
    code = (
        "import os, signal, socket, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid(); os.fork(); time.sleep(600)"
    )
    server = begin(sys.executable, "-c", code)
    assert server.wait_until_listening(None, 20, never) is not None
    assert eventually(lambda: len(server.pids()) == 2)
    pids = server.pids()
    assert server.pid not in pids
    server.stop()
    assert not any(alive(pid) for pid in pids)


def test_it_does_not_outlive_us(begin: Starts, tmp_path: Path) -> None:
    """A process that starts one, and is killed then."""
    victim = (*VICTIM, str(free_port("127.0.0.1")), "daemon")
    code = (
        "import sys; from pathlib import Path; from connprobe.session.started import StartedServer\n"
        f"log = open({str(tmp_path / 'log')!r}, 'wb')\n"
        f"s = StartedServer({victim!r}, {{}}, log, Path('log'), (100, 100))\n"
        "place = s.wait_until_listening(None, 20, lambda: False)\n"
        "print(*s.pids(), flush=True); sys.stdin.read()"
    )
    import subprocess

    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as mother:
        assert mother.stdout is not None
        pids = [int(pid) for pid in mother.stdout.readline().split()]
        assert pids
        assert all(alive(pid) for pid in pids)
        mother.send_signal(signal.SIGKILL)
        mother.wait()
    assert eventually(lambda: not any(alive(pid) for pid in pids))


def test_waiting_ends_when_there_is_no_time(begin: Starts) -> None:
    began = time.monotonic()
    hurry = iter([False, True])
    assert begin("sleep", "60").wait_until_listening(None, 60, lambda: next(hurry)) is None
    assert time.monotonic() - began < 30


def test_what_a_server_prints_moves_no_cursor() -> None:
    assert printable("a\x1b[2Jb\rc") == "a?[2Jb?c"
