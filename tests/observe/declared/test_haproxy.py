"""What is said of a real HAProxy, and what it does at that number."""

import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from connprobe.model import Ceiling
from connprobe.observe.declared import haproxy
from connprobe.observe.sockdiag import listen_sockets
from observe.declared.conftest import GET, UPGRADE, Crowd, Run, free_port
from running import eventually


def _configure(folder: Path, ports: Sequence[int], *, most: str = "maxconn 101", behind: int = 1) -> Path:
    file = folder / "h.cfg"
    file.write_text(
        f"global\n  {most}\ndefaults\n  mode http\n  timeout client 1h\n  timeout server 1h\n"
        "  timeout connect 5s\n  timeout tunnel 1h\n"
        f"frontend one\n  bind 127.0.0.1:{ports[0]}\n"
        "  http-request return status 200 content-type text/plain string ok if { path / }\n"
        "  default_backend b\n"
        f"frontend two\n  bind 127.0.0.1:{ports[1]}\n  maxconn 53\n"
        "  http-request return status 200 content-type text/plain string ok\n"
        f"backend b\n  server s 127.0.0.1:{behind}\n"
    )
    return file


def _fills_up(port: int, request: bytes, capacity: int) -> None:
    """So many are answered; the next one is not, and waits where it is not yet accepted."""
    with Crowd(port, request) as crowd:
        assert crowd.grow(capacity)
        with socket.create_connection(("127.0.0.1", port)) as one, select.epoll() as answer:
            one.sendall(request)
            answer.register(one, select.EPOLLIN)
            assert eventually(lambda: [each.depth for each in listen_sockets(port)] == [1])
            assert answer.poll(0) == []
            crowd.close_one()
            assert answer.poll(30)


def _by_scope(found: Sequence[Ceiling]) -> dict[str, float]:
    return {each.scope: each.capacity for each in found}


@pytest.mark.parametrize("request_", [GET, UPGRADE], ids=["http", "proxied"])
def test_the_global_maxconn(run: Run, tmp_path: Path, behind: int, request_: bytes) -> None:
    ports = [free_port(), free_port()]
    file = _configure(tmp_path, ports, behind=behind)
    process = run(ports[0], "haproxy", "-db", "-f", str(file))
    (ceiling,) = haproxy.ceilings([process.pid], [ports[0]], False)
    assert (ceiling.capacity, ceiling.per_connection, ceiling.unit) == (101, 1, "connections")
    assert ceiling.source == f"{file}:2"
    assert f"maxconn 202 in section global of {file}" in ceiling.fix
    _fills_up(ports[0], request_, 101)


def test_that_of_the_frontend_binds_first(run: Run, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    file = _configure(tmp_path, ports)
    process = run(ports[0], "haproxy", "-db", "-f", "h.cfg", cwd=tmp_path)
    found = haproxy.ceilings([process.pid], [ports[1]], False)
    assert _by_scope(found) == {"HAProxy frontend two": 53, "HAProxy": 101}
    assert f"frontend two (h.cfg:{file.read_text().splitlines().index('frontend two') + 1})" in found[0].fix
    _fills_up(ports[1], GET, 53)


def test_the_command_line_overrides(run: Run, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    _configure(tmp_path, ports)
    process = run(ports[0], "haproxy", "-db", "-n", "67", "-f", str(tmp_path))
    (ceiling,) = haproxy.ceilings([process.pid], [ports[0]], False)
    assert (ceiling.capacity, ceiling.source) == (67, "-n on the command line")
    _fills_up(ports[0], GET, 67)


def test_what_it_chose_itself_is_told_by_its_socket_alone(run: Run, tmp_path: Path) -> None:
    ports, others = [free_port(), free_port()], [free_port(), free_port()]
    file = _configure(tmp_path, ports, most=f"stats socket {tmp_path}/s")
    process = run(ports[0], "haproxy", "-db", "-f", str(file))
    (ceiling,) = haproxy.ceilings([process.pid], [ports[0]], False)
    soft = os.sysconf("SC_OPEN_MAX")
    assert soft * 0.45 < ceiling.capacity < soft / 2  # two descriptors for each
    assert ceiling.source == f"`show info` of {tmp_path}/s"
    silent = tmp_path / "silent"
    silent.mkdir()
    file = _configure(silent, others, most="")
    process = run(others[0], "haproxy", "-db", "-f", str(file))
    with pytest.raises(ValueError, match=f"set maxconn in the section global of {file}"):
        haproxy.ceilings([process.pid], [others[0]], False)
    (ceiling,) = haproxy.ceilings([process.pid], [others[1]], False)
    assert ceiling.capacity == 53
    assert "may be lower" in (ceiling.note or "")


def test_a_socket_that_talks_nonsense(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert haproxy.ask_maxconn(tmp_path / "s") is None  # does not listen
        listener.listen()
        pid = os.fork()
        if pid == 0:
            asked, _ = listener.accept()
            asked.sendall(b"Maxconn: -7\nxMaxconn: 9\n")
            os._exit(0)
        assert haproxy.ask_maxconn(tmp_path / "s") is None
        os.waitpid(pid, 0)


def test_other_programs_declare_nothing() -> None:
    assert haproxy.ceilings([os.getpid()], [80], False) == []
