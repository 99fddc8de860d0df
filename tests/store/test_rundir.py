import errno
import json
import os
import re
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from connprobe.errors import RunFailed
from connprobe.model import SCHEMA, HoldPlan, RunRecord, Sample
from connprobe.store.rundir import RunDirectory, check_writable, load_record, sanitise


def entries(place: Path) -> list[str]:
    return sorted(each.name for each in place.iterdir())


def test_a_run_and_back(tmp_path: Path, sample: Sample, plan: HoldPlan, record: RunRecord) -> None:
    with RunDirectory.create(tmp_path / "new" / "results", "hold", "[::1]:8080") as directory:
        directory.write_plan(plan)
        directory.write_record(record)
        directory.write_text("report.html", "<p>ü")
    assert re.fullmatch(r"\d{8}T\d{6}Z-hold-1-8080", directory.path.name)
    assert directory.path.parent == tmp_path / "new" / "results"
    assert entries(directory.path) == ["plan.json", "report.html", "run.json", "samples.jsonl"]
    assert load_record(directory.path) == load_record(directory.path / "run.json") == record
    assert msgspec.json.decode((directory.path / "plan.json").read_bytes(), type=HoldPlan) == plan


def test_each_sample_is_on_the_disk_at_once(tmp_path: Path, sample: Sample) -> None:
    with RunDirectory.create(tmp_path, "hold", "a:1") as directory:
        for number in range(1, 24):
            directory.append_sample(sample)
            lines = (directory.path / "samples.jsonl").read_bytes().splitlines()
            assert len(lines) == directory.samples_written == number
            assert msgspec.json.decode(lines[-1], type=Sample) == sample
        assert directory.error is None


def test_runs_of_the_same_second_get_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *args: "20260102T030405Z")
    for suffix in ("", "-2", "-3"):
        with RunDirectory.create(tmp_path, "hold", "a:1") as directory:
            assert directory.path.name == f"20260102T030405Z-hold-a-1{suffix}"


def test_a_planted_link_under_the_runs_name_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda *args: "20260102T030405Z")
    (tmp_path / "victim").mkdir()
    (tmp_path / "20260102T030405Z-hold-a-1").symlink_to("victim")
    with RunDirectory.create(tmp_path, "hold", "a:1") as directory:
        assert directory.path.name.endswith("-2")
    assert entries(tmp_path / "victim") == []


def test_a_directory_swapped_for_a_link_later_leads_nowhere(
    tmp_path: Path, sample: Sample, plan: HoldPlan
) -> None:
    (tmp_path / "victim").mkdir()
    with RunDirectory.create(tmp_path, "hold", "a:1") as directory:
        directory.path.rename(tmp_path / "moved")
        directory.path.symlink_to("victim")
        directory.append_sample(sample)
        directory.write_plan(plan)
    assert entries(tmp_path / "victim") == []
    assert entries(tmp_path / "moved") == ["plan.json", "samples.jsonl"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("host:8080", "host-8080"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "target"),
        ("", "target"),
        ("[fe80::1]:80", "fe80-1-80"),
        ("h\0st\n\x1b[2J", "h-st-2J"),
        ("\u00fcber.example:80", "ber.example-80"),
        ("a" * 300, "a" * 60),
    ],
)
def test_labels(label: str, expected: str) -> None:
    assert sanitise(label) == expected


def test_a_full_disk_is_remembered_and_every_line_stays_whole(tiny: Path, sample: Sample) -> None:
    with RunDirectory.create(tiny, "hold", "a:1") as directory:
        while directory.error is None:
            directory.append_sample(sample)
        first, written = directory.error, directory.samples_written
        assert first.errno == errno.ENOSPC
        directory.append_sample(sample)
        assert directory.error is first
        with pytest.raises(RunFailed, match="No space left") as caught:
            directory.write_text("report.html", "x" * 10_007)
        assert "--results" in (caught.value.fix or "")
        # there is space again: what comes then is readable too
        os.truncate(directory.path / "samples.jsonl", 0)
        directory.append_sample(sample)
        assert directory.samples_written == written + 1
        (line,) = (directory.path / "samples.jsonl").read_bytes().splitlines()
        assert json.loads(line)["held"] == 997


def test_a_full_disk_ends_in_a_whole_line(tiny: Path, sample: Sample) -> None:
    with RunDirectory.create(tiny, "hold", "a:1") as directory:
        while directory.error is None:
            directory.append_sample(sample)
        data = (directory.path / "samples.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert len([json.loads(line) for line in data.splitlines()]) == directory.samples_written


def test_records_that_are_none(tmp_path: Path, record: RunRecord) -> None:
    good = msgspec.json.encode(record)
    os.mkfifo(tmp_path / "fifo")
    cases = {
        "cut": (good[:-20], "is damaged"),
        "empty": (b"", "is damaged"),
        "binary": (b"\xff\xfe\0", "is damaged"),
        "field": (good.replace(b'"held":997', b'"held":"many"'), "is damaged"),
        "missing-field": (good.replace(b'"held":997,', b""), "is damaged"),
        "other": (b'{"schema":"somebody/else"}', "is not a run record"),
        "list": (b"[1]", "is not a run record"),
        "newer": (good.replace(SCHEMA.encode(), b"connprobe/run/99"), "connprobe/run/99"),
    }
    for name, (data, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RunFailed, match=said) as caught:
            load_record(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
        assert caught.value.fix
    for path, said in ((tmp_path / "nosuch", "does not exist"), (tmp_path, "run.json does not exist")):
        with pytest.raises(RunFailed, match=said):
            load_record(path)
    with pytest.raises(RunFailed, match="not a regular file"):
        load_record(tmp_path / "fifo")


def test_writable(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for base in (tmp_path, tmp_path / "a" / "b" / "c", tmp_path / "link", tmp_path / "link" / "in"):
        assert check_writable(base, 10_007) is None
    assert entries(tmp_path) == ["link", "real"]
    assert entries(tmp_path / "real") == []


def test_more_than_the_free_space_is_refused_with_both_figures(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    obstacle = check_writable(tmp_path, free + (1 << 40))
    assert obstacle is not None
    assert f"{free + (1 << 40):,} bytes" in obstacle.need
    assert "bytes free" in obstacle.have
    assert obstacle.fix


@pytest.mark.parametrize("name", ["file", "file/in", "dangling", "dangling/in", "loop"])
def test_what_is_no_directory_is_in_the_way(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    obstacle = check_writable(tmp_path / name, 1)
    assert obstacle is not None
    assert str(tmp_path / name.partition("/")[0]) in obstacle.have
    assert "--results" in obstacle.fix
    with pytest.raises(RunFailed, match="cannot be written") as caught:
        RunDirectory.create(tmp_path / name, "hold", "a:1")
    assert "--results" in (caught.value.fix or "")


def test_a_full_filesystem_is_refused(tiny: Path) -> None:
    assert check_writable(tiny, 1) is None
    (tiny / "filler").write_bytes(b"\0" * 65536)
    obstacle = check_writable(tiny / "results", 1)
    assert obstacle is not None
    assert "No space left" in obstacle.have
    assert entries(tiny) == ["filler"]


@pytest.mark.root
@pytest.mark.parametrize("below", ["", "results", "closed/results"])
def test_somebody_elses_directory_is_refused(below: str, nobody: Path) -> None:
    obstacle = check_writable(nobody / below, 1)
    assert obstacle is not None
    assert "Permission denied" in obstacle.have
    assert "--results" in obstacle.fix
    with pytest.raises(RunFailed, match="Permission denied") as caught:
        RunDirectory.create(nobody / below, "hold", "a:1")
    assert "--results" in (caught.value.fix or "")
