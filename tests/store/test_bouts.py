"""What a comparison keeps survives a crash: whole lines are read, a cut one is made again."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from connprobe.errors import RunFailed
from connprobe.model.bout import Bout, CompareRequest
from connprobe.plan.suites.suite import parse_suite
from connprobe.store.bouts import BOUTS, COMPARE, REQUEST, read_bouts, read_compare, read_request
from connprobe.store.rundir import RunDirectory

SUITE = """sizes = [5]
[[workload]]
name = "plain"
[[contestant]]
name = "a"
command = ["a"]
"""


def a_bout(number: int) -> Bout:
    return Bout(
        workload="plain",
        size=5,
        contestant="a",
        round=number,
        outcome="done",
        said=None,
        started_at="2026-01-02T03:04:05+00:00",
        run=None,
    )


def test_lines_are_read_back_and_a_cut_one_is_left_out(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "compare", "x", BOUTS) as directory:
        path = directory.path
        for number in (1, 2):
            directory.append_sample(a_bout(number))
    whole = (path / BOUTS).read_bytes()
    (path / BOUTS).write_bytes(whole[:-10])
    assert read_bouts(path) == [a_bout(1)]
    with RunDirectory.reopen(path, BOUTS) as directory:
        directory.append_sample(a_bout(3))
    assert read_bouts(path) == [a_bout(1), a_bout(3)]
    with RunDirectory.reopen(path, BOUTS) as directory:
        directory.append_sample(a_bout(2))
    assert [it.round for it in read_bouts(path)] == [1, 3, 2]
    assert (path / BOUTS).read_bytes().count(b"\n") == 4


def test_nothing_is_read_or_written_through_a_planted_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    directory = tmp_path / "results"
    directory.mkdir()
    (directory / BOUTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFailed, match="cannot be written"):
        RunDirectory.reopen(directory, BOUTS)
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(RunFailed, match="cannot be written"):
        RunDirectory.reopen(tmp_path / "link", BOUTS)


def test_a_fifo_in_place_of_the_lines_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / BOUTS)
    with pytest.raises(RunFailed, match="it is not a regular file"):
        RunDirectory.reopen(tmp_path, BOUTS)


def test_what_was_asked_for_is_read_back(tmp_path: Path) -> None:
    request = CompareRequest(
        suite=parse_suite(SUITE, "s.toml"), path="s.toml", place="/x", sizes=(7,), repeats=2
    )
    with RunDirectory.create(tmp_path, "compare", "x", BOUTS) as directory:
        directory.write(REQUEST, request)
        assert read_request(directory.path) == request
        assert read_bouts(directory.path) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: os.chown(path, 65534, -1), "belongs to user 65534"),
        (lambda path: os.chown(path / REQUEST, 65534, -1), f"{REQUEST}: it belongs to user 65534"),
        (lambda path: path.chmod(0o777), "others may write to it"),
        (lambda path: path.chmod(0o775), "others may write to it"),
        (lambda path: (path / REQUEST).chmod(0o664), f"{REQUEST}: others may write to it"),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away: sudo .venv/bin/pytest")
def test_commands_that_somebody_else_may_have_written_are_not_run(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    request = CompareRequest(
        suite=parse_suite(SUITE, "s.toml"), path="s.toml", place="/x", sizes=(7,), repeats=2
    )
    with RunDirectory.create(tmp_path, "compare", "x", BOUTS) as directory:
        directory.write(REQUEST, request)
        path = directory.path
    assert read_request(path) == request
    spoil(path)
    with pytest.raises(RunFailed, match=said):
        read_request(path)
    if REQUEST not in said:
        with pytest.raises(RunFailed, match=said):
            RunDirectory.reopen(path, BOUTS)


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"suite": 1}', "\x00", "[" * 9999])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / REQUEST).write_text(text)
    (tmp_path / COMPARE).write_text(text)
    with pytest.raises(RunFailed, match="is damaged"):
        read_request(tmp_path)
    with pytest.raises(RunFailed, match="is damaged"):
        read_compare(tmp_path)


def test_a_request_that_was_changed_by_hand_is_told(tmp_path: Path) -> None:
    suite = parse_suite(SUITE, "s.toml")
    (contestant,) = suite.contestants
    (workload,) = suite.workloads
    behind = replace(contestant, backends=("zz",))
    a_file = replace(contestant, files={"a.conf": "listen ${port};"})
    for changed, said in (
        (
            replace(suite, contestants=(behind,)),
            r"contestant\[1\].backends: there is no \[\[backend\]\] 'zz'",
        ),
        (replace(suite, workloads=(replace(workload, tls=True),)), r"workload\[1\]: no contestant has"),
        (replace(suite, contestants=(a_file,)), None),
    ):
        request = CompareRequest(suite=changed, path="s.toml", place="/x", sizes=(7,), repeats=2)
        (tmp_path / REQUEST).write_bytes(msgspec.json.encode(request))
        if said is None:
            assert read_request(tmp_path) == request
            continue
        with pytest.raises(RunFailed, match=f"is damaged: {said}"):
            read_request(tmp_path)
    without = CompareRequest(suite=suite, path="s.toml", place="/x", sizes=(), repeats=2)
    (tmp_path / REQUEST).write_bytes(msgspec.json.encode(without))
    with pytest.raises(RunFailed, match="is damaged: Expected `array` of length >= 1"):
        read_request(tmp_path)


def test_what_another_version_wrote_is_told(tmp_path: Path) -> None:
    (tmp_path / COMPARE).write_text('{"schema": "connprobe/compare/9"}')
    with pytest.raises(RunFailed, match="has the schema connprobe/compare/9"):
        read_compare(tmp_path)
