"""The article's table: means with their intervals, and what was not measured."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from connprobe.model import Interval, StageFigures
from made import a_limit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def articletable() -> ModuleType:
    """benchmarks/ is no package of the wheel, and shares its name with this directory: loaded by its path."""
    spec = importlib.util.spec_from_file_location("article_table", ROOT / "benchmarks/articletable.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def mean(value: float, half: float) -> Interval:
    return Interval(value, value - half, value + half, 10)


IDLE = StageFigures(
    stage="idle",
    connections=mean(4000, 0),
    use={"rss_bytes": mean(85.25e6, 0.5e6)},
    bytes_per_connection={"rss_bytes": mean(10_000, 50), "heap_bytes": mean(4600, 7)},
)
HEAP = a_limit("heap", 368_000, 300_000, 450_000, capacity=1.7e9, per_connection=4600)


def record(**changes: Any) -> SimpleNamespace:
    """The part of a run record that the table is made of."""
    fields = {"requested": 4000, "trials": [None] * 10, "stages": (IDLE,), "limits": (HEAP,), "headline": ""}
    return SimpleNamespace(**(fields | changes))


def test_both_shapes_stand_beside_the_article(articletable: ModuleType) -> None:
    single = StageFigures(
        stage="messaging", connections=mean(4000, 0), use={}, cpu_share=Interval(0.19, None, None, 1)
    )
    one = record(stages=(IDLE, single), headline="It stops.")
    lines = articletable.table({"array": one, "object": record(limits=())}).splitlines()
    assert "| RSS, idle | 28.7 MB | 85.2 ± 0.5 MB | 85.2 ± 0.5 MB |" in lines
    assert "| RSS, peak | 43.5 MB | not measured | not measured |" in lines
    assert "| CPU of one, messaging | 11 % | 19 % | not measured |" in lines
    assert "| live heap of a connection, idle | - | 4.600 ± 0.007 kB | 4.600 ± 0.007 kB |" in lines
    assert "| 1.7 GB over the RSS of a connection | 422,000 | 170,000 | not measured |" in lines
    assert lines[-3].endswith("| 368,000 (300,000 to 450,000) | not predicted |")
    assert lines[-1] == "- array: It stops."
