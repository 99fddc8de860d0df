"""The load generators' benchmark: what thor prints is read, and processes left behind are counted."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
THOR = """
  Opened 1000 connections


Online               1382 milliseconds
Time taken           1396 milliseconds
Connected            {connected}
Disconnected         0
Failed               {failed}
Total transferred    219.73kB
Total received       163.09kB

Durations (ms):

                     min     mean     stddev  median max
Handshaking          5       102          55      98 238
Latency              {latency}       33           23      28 129

Percentile (ms):

                      50%     66%     75%     80%     90%     95%     98%     98%    100%
Handshaking          98      131     148     158     173     189     216     236     238
Latency              28      40      47      52      61      71      92      108     129
"""


@pytest.fixture(scope="module")
def load(benchmarks: None) -> ModuleType:
    return importlib.import_module("benchmarks.load")


@pytest.mark.parametrize(
    ("connected", "failed", "latency", "taken_s"),
    [(1000, 0, "0", 1.396), (999, 0, "0", None), (1000, 1, "0", None), (1000, 0, "NaN", None)],
)
def test_thor_took_so_long_if_all_connected_and_were_answered(
    load: ModuleType, connected: int, failed: int, latency: str, taken_s: float | None
) -> None:
    out = THOR.format(connected=connected, failed=failed, latency=latency)
    assert load.told_by_thor(out, 1000) == taken_s


def test_what_was_left_behind_counts(tmp_path: Path) -> None:
    """The shell is gone at once; what it started in the background takes its CPU afterwards."""
    spins = "import time\nwhile time.process_time() < 0.3: pass"
    told = tmp_path / "told"
    command = ["sh", "-c", '"$0" -c "$1" & exit 7', sys.executable, spins]
    began = time.monotonic()
    ran = subprocess.run([sys.executable, str(BENCHMARKS / "spent.py"), str(told), *command], timeout=60)
    assert ran.returncode == 7
    spent = json.loads(told.read_text())
    assert 0.3 <= spent["cpu_s"] < time.monotonic() - began
    assert spent["wall_s"] < spent["cpu_s"]
