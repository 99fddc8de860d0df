"""Real Node processes that nobody prepared, through their inspector; and others in its place."""

import os
import re
import socket
import threading
import time
from collections.abc import Callable

import pytest

from connprobe.observe.runtimes import HeapUnknown, Runtime, attach, inspected
from connprobe.observe.runtimes.cdp import Session
from connprobe.observe.runtimes.listening import held, listeners
from running import eventually
from started import KEEPING, Started

MiB = 1 << 20
ARRAY = 8 + 32 + 16 + 100 * 8
ANY_PORT = "--inspect-port=0"  # several tests may run here at a time
Node = Callable[..., Started]


def attached(*pids: int) -> Runtime:
    runtime, reason = attach(pids, None, inspect=True)
    assert runtime is not None, reason
    return runtime


def open_ports(server: Started) -> list[int]:
    own = held(server.pid)
    return [each.port for each in listeners(server.pid) if each.inode in own]


def test_the_live_heap_grows_by_what_is_kept_and_the_inspector_is_closed(node: Node) -> None:
    server = node(KEEPING, ANY_PORT, "--max-old-space-size=64")
    runtime = attached(server.pid)
    assert re.fullmatch(r"Node \d+\.\d+ \(V8\)", runtime.name)
    first = runtime.heap()
    assert first.capacity_bytes == 64 * MiB
    assert server.ask("keep 29989") == 29989
    grown = runtime.heap().live_bytes - first.live_bytes
    assert grown == pytest.approx(29989 * ARRAY, rel=0.02)
    assert open_ports(server) == []
    runtime.close()
    server.tell("exit 7")
    assert server.process.wait(timeout=20) == 7


def test_readings_near_the_limit_do_no_harm(node: Node) -> None:
    server = node(KEEPING, ANY_PORT, "--max-old-space-size=40")
    runtime = attached(server.pid)
    server.ask(f"keep {(int(0.88 * 40 * MiB) - runtime.heap().live_bytes) // ARRAY}")
    for _ in range(7):
        assert 0.87 < runtime.heap().live_bytes / (40 * MiB) < 0.92
    assert server.ask("keep 1") > 1


def test_an_inspector_that_was_open_stays_open(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = node(KEEPING, f"--inspect=127.0.0.1:{port}")
    assert attached(server.pid).heap().live_bytes > MiB
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_without_leave_nothing_is_opened(node: Node) -> None:
    server = node(KEEPING, ANY_PORT)
    runtime, reason = attach([server.pid], None, inspect=False)
    assert runtime is None
    assert reason is not None
    assert "--inspect" in reason
    assert open_ports(server) == []


def test_a_port_that_is_taken(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspected, "OPENING_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = node(KEEPING, f"--inspect-port={taken.getsockname()[1]}")
        runtime, reason = attach([server.pid], None, inspect=True)
    assert runtime is None
    assert reason is not None
    assert "its port is taken" in reason
    assert server.ask("keep 1") == 1


def test_the_inspector_of_another_process_is_left_alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    other = node(KEEPING, "--inspect=127.0.0.1:0")
    (port,) = open_ports(other)
    server = node(KEEPING, ANY_PORT)
    monkeypatch.setattr(inspected, "_open", lambda *_: port)
    with pytest.raises(HeapUnknown, match="belongs to another process"):
        inspected.heaps([server.pid], collect=True)
    assert open_ports(other) == [port]


def test_a_process_that_would_die_of_the_signal_is_not_sent_it(
    start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = start("import sys; print(1, flush=True); sys.stdin.read()")
    with pytest.raises(HeapUnknown, match="opens no inspector"):
        inspected.heaps([other.pid], collect=False)
    assert other.process.poll() is None


def test_a_busy_event_loop_is_not_waited_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process itself closes its inspector once it can."""
    monkeypatch.setattr(inspected, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(inspected, "OPENING_S", 0.1)
    server = node(KEEPING, ANY_PORT)
    runtime = attached(server.pid)
    assert server.ask("spin 2500") == "spins"
    with pytest.raises(HeapUnknown, match="closes once its event loop"):
        runtime.heap()
    assert eventually(lambda: open_ports(server) == [])
    assert server.ask("keep 1") == 1


def test_the_process_undoes_it_all_should_connprobe_die(node: Node) -> None:
    server = node(KEEPING, ANY_PORT)
    process = os.pidfd_open(server.pid)
    until = time.monotonic() + 20.0
    port = inspected._open(server.pid, process, until)
    os.close(process)
    settings = {"heap": inspected.HEAP, "collect": "true", "opened": "true", "undo_ms": 100}
    with Session(port, until) as session:
        session.evaluate(inspected.BEGIN % settings)
    assert eventually(lambda: open_ports(server) == [])
    assert server.ask("keep 1") == 1
    assert attached(server.pid).heap().live_bytes > MiB


def test_a_process_that_dies_while_it_is_asked(node: Node) -> None:
    server = node(KEEPING, ANY_PORT)
    runtime = attached(server.pid)
    server.ask("spin 60000")

    def kill() -> None:
        assert eventually(lambda: open_ports(server) != [])
        server.process.kill()

    killing = threading.Thread(target=kill)
    killing.start()
    with pytest.raises(HeapUnknown, match=r"ended|cannot be used"):
        runtime.heap()
    killing.join()
    server.process.wait()
    with pytest.raises(HeapUnknown, match="no Node process"):
        runtime.heap()
