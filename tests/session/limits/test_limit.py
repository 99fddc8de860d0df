"""What `limit` makes before its server runs."""

import os
import shutil
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.model import LimitRequest
from connprobe.session.limits.limit import starter
from connprobe.store.rundir import RunDirectory

NGINX = LimitRequest(server="nginx", port=8080)


@pytest.fixture(autouse=True)
def _nginx() -> None:
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        pytest.skip("needs nginx: apt-get install nginx-light")


def test_a_directory_that_somebody_else_may_enter_is_not_written_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    with RunDirectory.create(tmp_path, "limit", "nginx") as directory:
        planted = directory.path / "server"
        planted.mkdir(mode=0o755)
        (planted / "nginx.conf").symlink_to(outside)
        with pytest.raises(RunFailed, match="not a directory of ours alone") as failed:
            starter(NGINX, {}, directory, (1024, 4096))
    assert "--results" in (failed.value.fix or "")
    assert outside.read_text() == "mine"


def test_a_link_in_the_place_of_a_configuration_is_replaced(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    with RunDirectory.create(tmp_path, "limit", "nginx") as directory:
        planted = directory.path / "server"
        planted.mkdir(mode=0o700)
        (planted / "nginx.conf").symlink_to(outside)
        _, preparation = starter(NGINX, {}, directory, (1024, 4096))
        preparation.close()
        assert "worker_connections" in (planted / "nginx.conf").read_text()
    assert outside.read_text() == "mine"
