"""`connprobe hold` as a person sees it: on a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from running import PATIENCE_S

ROWS, COLUMNS = 40, 100
CHARTS = "▁▂▃▄▅▆▇█"


def test_the_live_view_and_what_stays_of_it(tmp_path: Path) -> None:
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    given = ("hold", "--count", "997", "--for", "2s", "--no-bpf", "--results", str(tmp_path / "results"))
    run = subprocess.Popen(
        [sys.executable, "-m", "connprobe", *given],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )
    os.close(slave)
    written = b""
    try:
        while data := _read(terminal):
            written += data
        assert run.wait(PATIENCE_S) == 0
    finally:
        run.kill()
        run.wait()
        os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())
    live, _, stays = text.rpartition("closing")
    for shown in ("997 of 997 held", "holding 2 s", "left", "now", "mean", "in flight", "p50", "p99"):
        assert shown in live, (shown, live)
    assert re.search(r"server +[\d.]+ MB RSS +[\d—]+%? CPU", live)
    for name in ("held", "rate"):
        assert re.search(rf"│ {name} +[{CHARTS}]", live)
    assert "997" in stays
    assert str(next((tmp_path / "results").iterdir()).name) in "".join(stays.split())
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h")  # the cursor is shown again


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: nobody has it open any more
        return b""
