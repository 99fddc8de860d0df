"""The article's figures: transcribed so that its own arithmetic holds, and put beside ours."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from connprobe.model.bout import Figure, Spread, Standing
from connprobe.plan.standings import FIGURES

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
