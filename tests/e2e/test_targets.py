"""Each reference server is held by `connprobe hold` in the way that `ready` says."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from connprobe import targets
from connprobe.errors import RunFailed
from connprobe.observe.sockdiag import listen_sockets
from e2e.conftest import Holds
from running import PATIENCE_S, eventually


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in targets.NAMES), ("nginx", {"mode": "pending", "worker_connections": "1009"})],
)
def test_it_is_held(
    hold: Holds, free_port: Callable[[], int], tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    port = free_port()
    try:
        ready = targets.ready(name, port, tmp_path, options)
    except RunFailed as missing:
        pytest.skip(f"{missing}: {missing.fix}")
    with subprocess.Popen(ready.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: bool(listen_sockets(port)))
            protocol = ("--protocol", ready.protocol)
            mode = ("--http-mode", ready.http_mode) if ready.protocol == "http" else ()
            target = ("--target", f"127.0.0.1:{port}", "--for", "1s")
            record = hold(*target, *protocol, *mode, "--count", "997").record
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
    assert (record.held, record.failures, record.drops) == (997, {}, {})
