"""The article's figures: transcribed so that its own arithmetic holds, and put beside ours."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from connprobe.model import HostRecord
from connprobe.model.bout import (
    COMPARE_SCHEMA,
    CompareRecord,
    CompareRequest,
    Figure,
    Spread,
    Standing,
)
from connprobe.plan.suites.standings import FIGURES
from connprobe.plan.suites.suite import parse_suite

ROOT = Path(__file__).resolve().parents[2]
CONCURRENCY = 100


@pytest.fixture(scope="module")
def battletable() -> Iterator[ModuleType]:
    """benchmarks/ is no package of the wheel, and shares its name with this directory."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "benchmarks"}
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("benchmarks.battletable")
    sys.path.remove(str(ROOT))
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    sys.modules.update(hidden)


def test_a_hundred_at_a_time_cannot_have_taken_less_than_their_handshakes(battletable: ModuleType) -> None:
    """A slip of a digit would show: N connections, 100 at once, take N/100 handshakes and answers."""
    for (_, size, contestant), (handshake, latency, total) in battletable.ARTICLE.items():
        least = (handshake + latency) * size / CONCURRENCY
        assert least * 0.8 < total < 2 * least, (size, contestant)


def test_every_contestant_of_the_article_is_there_at_each_size(battletable: ModuleType) -> None:
    sizes = {size for _, size, _ in battletable.ARTICLE}
    assert sizes == {2000, 5000, 10000}
    assert len(battletable.ARTICLE) == 3 * (4 + 5)


def test_a_line_for_each_standing_and_a_dash_for_what_the_article_has_not(battletable: ModuleType) -> None:
    def standing(size: int) -> Standing:
        figures = dict.fromkeys(FIGURES, Figure(values=None, ratios=None))
        value = Spread(median=1.5, low=1.5, high=1.5, count=1)
        figures["total_s"] = Figure(values=value, ratios=value)
        return Standing(
            workload="plain", size=size, contestant="nginx", control=False, done=1, bouts=1, figures=figures
        )

    known, unknown = (battletable._line(standing(size)) for size in (10000, 20000))
    dash = battletable.DASH
    assert known == (
        f"| plain: nginx | 10,000 | 252 ms | {dash} | 16 ms | {dash} | 28,433 ms | 1,500 ms | 1.12 | 1.50 |"
    )
    assert unknown.count(dash) == 6


def test_an_earlier_comparison_is_not_told_as_one_of_now(battletable: ModuleType) -> None:
    battle = importlib.import_module("benchmarks.battle")
    record = CompareRecord(
        schema=COMPARE_SCHEMA,
        connprobe="0.0.9",
        command="compare",
        outcome="done",
        started_at="2026-01-02T03:04:05+00:00",
        request=CompareRequest(
            suite=parse_suite(
                'sizes = [5]\n[[workload]]\nname = "a"\n[[contestant]]\nname = "a"\ncommand = ["a"]\n',
                "s.toml",
            ),
            path="s.toml",
            place="/x",
            sizes=(5,),
            repeats=1,
        ),
        skipped={},
        versions={},
        turns=0,
        bouts=(),
        standings=(),
        host=HostRecord(kernel="5.4", cpus=64, memory_total_bytes=2**38, nofile=1024, python="3.11.0"),
        verdicts=(),
    )
    text = battle.block(record, "x", battle.then(record))
    assert text.startswith(
        "64 CPUs, 256 GiB, Linux 5.4, Python 3.11.0, connprobe 0.0.9. The runs began at 2026-01-02T03:04:05"
    )
    assert "commit" not in text.splitlines()[0]
