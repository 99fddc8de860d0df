"""Several runs side by side."""

from typing import Literal

from connprobe.model.base import Record

COMPARISON_SCHEMA = "connprobe/comparison/1"


class ComparedRun(Record, frozen=True):
    """label: a, b, c ..., as columns are headed. path: as it was given."""

    label: str
    path: str
    command: str
    started_at: str
    headline: str


class ComparedFigure(Record, frozen=True):
    """One figure of every run. unit number: not a whole one; share: 1 is all.

    ratios: to the first run; None where either is unknown, the first is 0, or it is a share.
    """

    group: str
    name: str
    unit: Literal["count", "number", "share", "bytes", "s", "ms", "per_s"]
    values: tuple[float | None, ...]
    ratios: tuple[float | None, ...]


class Difference(Record, frozen=True):
    """A setting, or a fact of the machine, that is not the same in all runs. None: not in that run."""

    part: str
    name: str
    values: tuple[str | None, ...]


class Comparison(Record, frozen=True):
    """What `connprobe report --format json` prints for several runs."""

    schema: str
    runs: tuple[ComparedRun, ...]
    figures: tuple[ComparedFigure, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]  # what makes the runs hard to compare
