"""How every benchmark goes and ends: its measurements, its table shown and kept, its exit status."""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

from benchmarks.figures import Row, replace_block

from benchmarks import processes

Bench = TypeVar("Bench")


def measured(
    measurements: Mapping[str, Callable[[Bench], list[Row]]], only: str | None, bench: Callable[[Path], Bench]
) -> list[Row]:
    """By all of them, or by one. bench: what they need, made for a directory that runs land in."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="connprobe-bench-") as name:
        made = bench(Path(name))
        for measurement, measure in measurements.items():
            if only in (None, measurement):
                rows += measure(made)
    return rows


def publish(block: str, notes: Path, *, write: bool, name: str = "figures") -> None:
    """On standard output, and in the block of `notes` of that name."""
    print(block)
    if write:
        notes.write_text(replace_block(notes.read_text(), block, name))


def run(main: Callable[[], int]) -> NoReturn:
    try:
        sys.exit(main())
    except processes.BenchmarkError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
