"""What is asked of a reference server, and the answer to what makes no sense."""

import shutil
import subprocess
from pathlib import Path

import pytest

from connprobe import targets
from connprobe.errors import RunFailed, UsageError
from connprobe.session.started import free_port, taken
from running import eventually


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_configuration_is_all_that_is_written_before_the_start(tmp_path: Path, name: str) -> None:
    try:
        targets.ready(name, 8080, tmp_path)
    except RunFailed as missing:
        pytest.skip(f"{missing}: {missing.fix}")
    (file,) = tmp_path.iterdir()
    assert file.name in ("nginx.conf", "haproxy.cfg")
    assert "$" not in file.read_text()


def test_the_heap_of_node_is_limited_by_its_own_option(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("needs node: apt-get install nodejs")
    for name in ("node-array", "node-object", "node-ws"):
        assert "--max-old-space-size=80" in targets.ready(name, 8080, tmp_path, {"heap_mb": "80"}).command
        assert len(targets.ready(name, 8080, tmp_path).command) == 5  # node, the script, and three for it


def test_an_unknown_name_is_answered_with_all_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reference server 'apache'") as refused:
        targets.ready("apache", 8080, tmp_path)
    assert refused.value.fix == f"one of {', '.join(targets.NAMES)}"


def test_an_unknown_option_is_answered_with_those_of_the_server(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the server haproxy has no option 'heap_mb'") as refused:
        targets.ready("haproxy", 8080, tmp_path, {"heap_mb": "80"})
    assert refused.value.fix == "it has address, maxconn, threads"


@pytest.mark.parametrize(
    ("name", "option", "value", "fix"),
    [
        ("nginx", "worker_connections", "many", "16 to 16777216"),
        ("nginx", "worker_connections", "5; include /etc/passwd", "16 to 16777216"),
        ("nginx", "mode", "slow", "keepalive"),
        ("nginx", "workers", "0", "1 to 512"),
        ("node-ws", "heap_mb", "15", "16 to 1048576"),
        ("haproxy", "maxconn", "-1", "1 to 16777216"),
        ("haproxy", "threads", "\N{DEVANAGARI DIGIT TWO}", "1 to 64"),
        ("python-threads", "stack_kb", "31", "32 to 1048576"),
        ("python-asyncio", "address", "localhost", "127.0.0.1"),
        ("nginx", "address", "::1%;", "127.0.0.1"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(
    tmp_path: Path, name: str, option: str, value: str, fix: str
) -> None:
    with pytest.raises(UsageError, match=f"{option} of the server {name} is ") as refused:
        targets.ready(name, 8080, tmp_path, {option: value})
    assert refused.value.fix == fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package"), [("node-array", "nodejs"), ("nginx", "nginx-light"), ("haproxy", "haproxy")]
)
def test_a_program_that_is_missing_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(targets, "_SBIN", str(tmp_path))
    with pytest.raises(RunFailed, match=f"the server {name} needs .*, which is not installed") as refused:
        targets.ready(name, 8080, tmp_path)
    assert refused.value.fix == f"apt-get install {package}"


def test_programs_in_sbin_are_found_whatever_the_path_of_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/usr/sbin/haproxy").exists():
        pytest.skip("needs haproxy: apt-get install haproxy")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert targets.ready("haproxy", 8080, tmp_path).command[0] == "/usr/sbin/haproxy"


def test_the_embedded_server_runs_nothing_that_lies_where_it_is_started(tmp_path: Path) -> None:
    planted, ran = tmp_path / "connprobe", tmp_path / "ran"
    planted.mkdir()
    (planted / "__init__.py").write_text(f"open({str(ran)!r}, 'w').close()")
    port = free_port("127.0.0.1")
    with subprocess.Popen(targets.ready("embedded", port, tmp_path).command, cwd=tmp_path) as server:
        try:
            assert eventually(lambda: taken(port) is not None or server.poll() is not None)
        finally:
            server.kill()
    assert not ran.exists()
