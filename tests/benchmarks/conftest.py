"""Builds the floor once, away from the checkout, and starts its server."""

import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOOR = ROOT / "benchmarks/floor"


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """benchmarks/ is no package of the wheel, and shares its name with this directory. It sets PYTHONPATH."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "benchmarks"}
    path = os.environ.get("PYTHONPATH")
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    sys.modules.update(hidden)
    os.environ.pop("PYTHONPATH", None)
    if path is not None:
        os.environ["PYTHONPATH"] = path


@pytest.fixture(scope="session")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with `client` and `server`."""
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("needs a C compiler and make: apt-get install build-essential")
    build = tmp_path_factory.mktemp("floor")
    subprocess.run(["make", "--quiet", "-C", str(FLOOR), f"BUILD={build}"], check=True, timeout=60)
    return build


@pytest.fixture
def floor_server(floor: Path, request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """(port, pid) of a server. Parametrize it with "ws" or "http", of two processes; "ws 9": of nine."""
    protocol, _, processes = request.param.partition(" ")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [str(floor / "server"), str(port), processes or "2", protocol]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert select.select([process.stderr], [], [], 10)[0], "the server says nothing"
            assert process.stderr.readline() == f"listening on 127.0.0.1:{port}\n"
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(10)
