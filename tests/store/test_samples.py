import os
from pathlib import Path

import msgspec
import pytest

from connprobe.errors import RunFailed
from connprobe.model import Sample
from connprobe.store.output import write_output
from connprobe.store.samples import LONGEST_LINE, SAMPLES, read_samples


def test_lines_that_are_no_samples_are_told_apart(tmp_path: Path, sample: Sample) -> None:
    good = msgspec.json.encode(sample) + b"\n"
    bad = (b"{}\n", b"\xff\xfe\n", b"[1]\n", b"x" * (3 * LONGEST_LINE) + b"\n", b"\n", good[:-20] + b"\n")
    (tmp_path / SAMPLES).write_bytes(good + b"".join(line + good for line in bad) + good[:-9])
    found = list(read_samples(tmp_path))
    assert found == [sample, *[None, sample] * len(bad), None]


def test_no_file_is_no_samples(tmp_path: Path) -> None:
    assert list(read_samples(tmp_path)) == []


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / SAMPLES)
    with pytest.raises(RunFailed, match="not a regular file"):
        list(read_samples(tmp_path))


def test_output_goes_into_regular_files_alone(tmp_path: Path) -> None:
    write_output(tmp_path / "new", "one")
    write_output(tmp_path / "new", "two")
    assert (tmp_path / "new").read_text() == "two"
    (tmp_path / "link").symlink_to("new")
    for path, said in (
        (tmp_path / "link", "regular"),
        (tmp_path, "regular"),
        (tmp_path / "no" / "x", "No such"),
    ):
        with pytest.raises(RunFailed, match=said):
            write_output(path, "three")
    assert (tmp_path / "new").read_text() == "two"
