"""The table of limits: what counts as a truth, and what its figures say. And the cgroups that it makes."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from connprobe.cgroup import parse_hierarchies

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def limittable(benchmarks: None) -> ModuleType:
    return importlib.import_module("benchmarks.limittable")


@pytest.fixture(scope="module")
def cases(benchmarks: None) -> ModuleType:
    return importlib.import_module("benchmarks.cases")


@pytest.fixture(scope="module")
def limits(benchmarks: None) -> ModuleType:
    return importlib.import_module("benchmarks.limits")


def values(**changes: Any) -> dict[str, Any]:
    return {
        "case": "nginx",
        "round": 1,
        "count": 600,
        "expected": "server_config",
        "commit": "abc",
        "at": "2026-11-26T19:00:00Z",
        "wall_s": 40.0,
        "others_cpus": 0.0,
        "predicted": 3030,
        "low": 2990,
        "high": 3040,
        "binds": "server_config",
        "true": 3000,
        "ended": "server_config",
        "cause": "it reset connections",
        **changes,
    }


NO_TRUTH = {"predicted": None, "low": None, "high": None, "true": None, "failure": "exit 1: no such server"}


def test_a_row_that_was_cut_off_spoils_no_other(
    limits: ModuleType, limittable: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "limits.jsonl"
    rows = [limittable.Row(**values(round=number)) for number in (1, 2, 3)]
    limits.append(file, rows[0])
    limits.append(file, rows[1])
    file.write_bytes(file.read_bytes()[:-20])
    assert limits.read(file) == rows[:1]
    limits.append(file, rows[1])
    limits.append(file, rows[2])
    assert limits.read(file) == rows
    assert file.read_bytes().count(b"\n") == 3


def test_what_is_measured_is_of_this_checkout(tmp_path: Path) -> None:
    (tmp_path / "connprobe").mkdir()
    (tmp_path / "connprobe/__init__.py").touch()  # another tree
    shown = "import connprobe; print(connprobe.__file__)"
    code = f"from benchmarks import processes; print(processes.output([sys.executable, '-c', {shown!r}], 30))"
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == str(ROOT / "cli/connprobe/__init__.py")


def test_each_case_has_a_name_of_its_own(cases: ModuleType) -> None:
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)


def test_a_heap_ends_only_where_descriptors_do_not(cases: ModuleType) -> None:
    large = next(case for case in cases.CASES if case.options.get("heap_mb") == "120")
    assert (large.expected(20_000), large.expected(100_000)) == ("nofile", "heap")


def test_nothing_is_predicted_from_more_than_a_quarter(cases: ModuleType) -> None:
    for case in cases.CASES:
        known = (case.options.get("worker_connections"), case.options.get("maxconn"), case.nofile)
        configured = [int(number) for number in known if number] or [
            case.group[1] for _ in "x" if case.group and case.group[0] == "pids"
        ]
        assert all(4 * case.count <= number - 100 for number in configured)


def test_a_row_says_how_far_off_it_was(limittable: ModuleType) -> None:
    row = limittable.Row(**values())
    assert (row.error, row.inside, row.named) == (0.01, True, True)
    assert limittable.Row(**values(low=3001)).inside is False
    assert not limittable.Row(**values(ended=None)).named
    assert not limittable.Row(**values(binds="nofile")).named
    none = limittable.Row(**values(**NO_TRUTH))
    assert (none.error, none.inside) == (None, None)


def test_the_table_marks_what_missed(limittable: ModuleType) -> None:
    rows = [
        limittable.Row(**values(round=2, predicted=3120, ended="nofile")),
        limittable.Row(**values()),
        limittable.Row(**values(case="HAProxy", **NO_TRUTH)),
    ]
    lines = limittable.table(rows, ["HAProxy", "nginx"]).splitlines()[2:]
    assert lines[0].startswith("| HAProxy | 600 | - | - | - | - | - |")
    assert lines[0].endswith("| **no truth**: exit 1: no such server |")
    assert "| 3,030 | 2,990 to 3,040 | 3,000 | +1.0 % | yes | server_config | server_config |" in lines[1]
    assert "| 3,120 | 2,990 to 3,040 | 3,000 | **+4.0 %** | yes | server_config | **nofile** |" in lines[2]


def test_the_summary_counts_only_what_has_a_truth(limittable: ModuleType) -> None:
    rows = [
        limittable.Row(**values()),
        limittable.Row(**values(predicted=2850, low=2800, high=2900, others_cpus=1.5)),
        limittable.Row(**values(case="HAProxy", **NO_TRUTH)),
    ]
    text = limittable.summary(rows, 120.0)
    assert "3 runs of 2 cases" in text
    assert "worst 5.0%, median 3.00%; 1 of 2 above 3%" in text
    assert "1 of 2 (50%)" in text
    assert "named wrongly, predicted or at the end: 0 of 2" in text
    assert "without a truth: 1" in text
    assert "beside 1 of the runs" in text


def test_a_line_that_was_cut_off_is_run_again(limits: ModuleType, tmp_path: Path) -> None:
    import msgspec

    whole = msgspec.json.encode(limits.Row(**values()))
    file = tmp_path / "limits.jsonl"
    file.write_bytes(whole + b"\n" + whole[:50])
    assert [row.round for row in limits.read(file)] == [1]


def test_a_run_that_fails_says_why(limits: ModuleType) -> None:
    with pytest.raises(limits.processes.BenchmarkError, match=r"exit 2: .*there is no such program"):
        limits.limit([sys.executable, "-m", "connprobe", "limit", "--", "/no/such/server"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cgroup_goes_with_its_benchmark(number: signal.Signals) -> None:
    if os.geteuid():
        pytest.skip("run as root: it makes a cgroup")
    if "pids" not in parse_hierarchies(Path("/proc/self/mountinfo").read_text()):
        pytest.skip("needs cgroup v1: mount -t cgroup -o pids none /sys/fs/cgroup/pids")
    program = (
        "import signal, subprocess, sys\n"
        "from benchmarks import limits\n"
        "signal.signal(signal.SIGTERM, limits._stop)\n"
        "with limits.group('pids', 7) as path:\n"
        "    inside = 'echo $$ > \"$0\"; exec sleep 600'\n"
        "    server = subprocess.Popen(['sh', '-c', inside, str(path / 'cgroup.procs')])\n"
        "    while not (path / 'cgroup.procs').read_text(): signal.sigtimedwait([], 0.01)\n"
        "    print(path, (path / 'pids.max').read_text().strip(), flush=True)\n"
        "    signal.pause()\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        path, limit = process.stdout.readline().split()
        assert (limit, Path(path).is_dir()) == ("7", True)
        process.send_signal(number)
        process.wait(30)
    assert not Path(path).exists()
