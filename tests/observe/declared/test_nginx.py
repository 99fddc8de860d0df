"""What is said of a real nginx, and what it does at that number."""

import os
from pathlib import Path

import pytest

from connprobe.model import Ceiling
from connprobe.observe.declared import nginx
from connprobe.observe.reading import ServerMeter
from observe.declared.conftest import GET, UNFINISHED, UPGRADE, Crowd, Run, free_port
from running import eventually

SIZE = 401  # odd, and not a multiple of 16


def _configure(
    folder: Path, ports: list[int], *, workers: int = 1, behind: int = 1, size: int = SIZE
) -> Path:
    listens = " ".join(f"listen 127.0.0.1:{port};" for port in ports)
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; worker_processes {workers}; pid {folder}/pid; error_log {folder}/log;\n"
        "include events.conf;\n"
        f"http {{ access_log off; {temporary} keepalive_timeout 600; client_header_timeout 600;\n"
        f" client_body_timeout 600; proxy_read_timeout 600; server {{ {listens}\n"
        f" location / {{ return 200 ok; }}\n"
        f" location /ws {{ proxy_pass http://127.0.0.1:{behind}; proxy_http_version 1.1;\n"
        "  proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; } } }\n"
    )
    (folder / "events.conf").write_text(f"events {{\n  worker_connections {size};\n}}\n")
    folder.chmod(0o755)
    return file


def _start(run: Run, folder: Path, port: int, workers: int = 1) -> ServerMeter:
    master = run(port, "nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "log"))
    meter = ServerMeter([master.pid])
    assert eventually(lambda: _workers(meter, master.pid) == workers)
    return meter


def _workers(meter: ServerMeter, master: int) -> int:
    meter.group.refresh()
    meter.quick()
    return sum(
        Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"nginx: worker process") for pid in meter.pids
    )


def _one(meter: ServerMeter, *, between_requests: bool = False) -> Ceiling:
    (ceiling,) = nginx.ceilings(meter.pids, (), between_requests)
    return ceiling


def test_requests_in_progress_fill_the_table_to_the_last(run: Run, tmp_path: Path) -> None:
    port = free_port()
    _configure(tmp_path, [port])
    meter = _start(run, tmp_path, port)
    ceiling = _one(meter)
    assert (ceiling.capacity, ceiling.metric) == (SIZE - 2, "process_fds_grown")
    assert ceiling.source == f"{tmp_path}/events.conf:2"
    assert f"worker_connections {2 * SIZE}; in {tmp_path}/events.conf" in ceiling.fix
    with Crowd(port, UNFINISHED) as crowd:
        assert crowd.grow(SIZE - 2)
        assert meter.read(SIZE - 2)["process_fds_grown"] == ceiling.capacity
        assert crowd.loses_none()
        assert not crowd.grow(SIZE - 1)
        assert crowd.loses_none()  # the new one it was that had no room


def test_connections_between_requests_are_closed_before(run: Run, tmp_path: Path) -> None:
    port = free_port()
    _configure(tmp_path, [port])
    ceiling = _one(_start(run, tmp_path, port), between_requests=True)
    assert ceiling.capacity == SIZE - 2 - 25
    with Crowd(port, GET) as crowd:
        assert crowd.grow(int(ceiling.capacity))
        assert crowd.loses_none()
        crowd.grow(int(ceiling.capacity) + 1)
        assert crowd.loses_one()


def test_a_proxied_connection_takes_two(run: Run, tmp_path: Path, behind: int) -> None:
    port, other = free_port(), free_port()
    _configure(tmp_path, [port, other], behind=behind)
    meter = _start(run, tmp_path, port)
    ceiling = _one(meter)
    assert ceiling.capacity == SIZE - 3  # two listeners
    with Crowd(port, UPGRADE) as crowd:
        assert crowd.grow(101)
        assert meter.read(101)["process_fds_grown"] == 202
        assert not crowd.grow(SIZE)
        assert crowd.held == ceiling.capacity // 2


def test_of_several_workers_the_fullest_counts(run: Run, tmp_path: Path) -> None:
    port = free_port()
    _configure(tmp_path, [port], workers=3)
    meter = _start(run, tmp_path, port, workers=3)
    ceiling = _one(meter)
    assert ceiling.capacity == SIZE - 2
    assert "each of 3 workers" in (ceiling.note or "")
    with Crowd(port, GET) as crowd:
        assert crowd.grow(97)
        use = meter.read(97)
        assert 97 / 3 <= use["process_fds_grown"] <= 97
        assert use["fds"] > use["process_fds"]


def test_a_file_changed_after_the_start_is_said(run: Run, tmp_path: Path) -> None:
    port = free_port()
    _configure(tmp_path, [port])
    meter = _start(run, tmp_path, port)
    assert "newer" not in (_one(meter).note or "")
    os.utime(tmp_path / "events.conf", (4e9, 4e9))
    assert f"{tmp_path}/events.conf is newer than the workers" in (_one(meter).note or "")


def test_the_default_and_the_command_line(run: Run, tmp_path: Path) -> None:
    port = free_port()
    file = _configure(tmp_path, [port])
    (tmp_path / "events.conf").write_text("events { }\n")
    file.write_text(file.read_text().removeprefix("daemon off; "))
    master = run(port, "nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-g", "daemon off;")
    meter = ServerMeter([master.pid])
    assert eventually(lambda: _workers(meter, master.pid) == 1)
    ceiling = _one(meter)
    assert ceiling.capacity == 510
    assert ceiling.source == f"{file} (not set: the default)"


def test_what_cannot_be_understood_is_said(run: Run, tmp_path: Path) -> None:
    port = free_port()
    _configure(tmp_path, [port])
    meter = _start(run, tmp_path, port)
    (tmp_path / "events.conf").write_text("events { worker_connections many; }")
    with pytest.raises(ValueError, match="worker_connections many: not a number"):
        _one(meter)
    (tmp_path / "events.conf").unlink()
    with pytest.raises(FileNotFoundError):
        _one(meter)


def test_other_programs_declare_nothing() -> None:
    assert nginx.ceilings([os.getpid()], (), False) == []
