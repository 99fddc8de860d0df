import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.store.lock import Busy, exclusive


def test_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    with exclusive("sysctl", "the first", tmp_path):
        said = rf"the first \(pid {os.getpid()}\) has the lock on sysctl"
        with pytest.raises(Busy, match=said), exclusive("sysctl", "the second", tmp_path):
            pass
        with exclusive("other", "the second", tmp_path):
            pass
    with exclusive("sysctl", "the second", tmp_path):
        pass


def test_the_second_waits_where_it_has_the_patience(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with exclusive("sysctl", "waiting", tmp_path, patience_s=60):
            order.append("waited")

    with exclusive("sysctl", "holder", tmp_path):
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        order.append("holder")
    waiting.join()
    assert order == ["holder", "waited"]


def test_a_killed_holder_has_it_no_more(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from connprobe.store.lock import exclusive
with exclusive("sysctl", "killed", Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        with pytest.raises(Busy, match=rf"killed \(pid {holder.pid}\)"), exclusive("sysctl", "me", tmp_path):
            pass
        holder.kill()
    with exclusive("sysctl", "me", tmp_path):
        pass


def test_the_file_is_ours_alone_and_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    with exclusive("sysctl", "me", tmp_path):
        assert stat.S_IMODE((tmp_path / "sysctl.lock").stat().st_mode) == 0o600
    (tmp_path / "sysctl.lock").unlink()
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "sysctl.lock").symlink_to("victim")
    with pytest.raises(RunFailed, match="no lock"), exclusive("sysctl", "me", tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
