import pytest
from msgspec.structs import replace

from connprobe.model import Interval, Reading, Stage, Trial
from connprobe.plan.limits.costs import costs, with_time
from connprobe.plan.limits.growth import fit
from report.limited import HEAP_EACH, trial


def test_one_trial_has_the_interval_of_its_fit() -> None:
    heap = next(it for it in costs([trial(1)]) if it.metric == "heap_bytes")
    each = HEAP_EACH + 1.3
    assert heap.each == Interval(mean=each, low=each - 31, high=each + 31, count=1)
    assert heap.shapes == {"stepped": 1}


def test_several_have_that_of_their_spread() -> None:
    heap = next(it for it in costs([trial(1), trial(20), trial(39)]) if it.metric == "heap_bytes")
    assert abs(heap.each.mean - (HEAP_EACH + 26)) < 1e-6
    assert heap.each.low is not None
    assert abs(heap.each.mean - heap.each.low - 4.303 * 24.7 / 3**0.5) < 0.05  # t(2), deviation 24.7
    assert heap.shapes == {"stepped": 1, "straight": 2}
    assert heap.last == trial(39).growth[3]


def test_trials_that_agree_are_known_no_better_than_each() -> None:
    heap = next(it for it in costs([trial(1), trial(1), trial(1)]) if it.metric == "heap_bytes")
    assert (heap.each.low, heap.each.high) == (heap.each.mean - 31, heap.each.mean + 31)
    assert (heap.base.low, heap.base.high) == (heap.base.mean - 2500 * 31, heap.base.mean + 2500 * 31)


@pytest.mark.parametrize("steps", [False, True])
def test_what_is_taken_at_none_is_by_the_curve_and_not_by_its_last_line(steps: bool) -> None:
    def taken(x: int) -> float:
        return 1e6 + 1000 * x + (500_000 * (x > 1300) if steps else 0.1 * x**2)

    xs = range(400, 4001, 200)
    growth = fit(xs, [taken(x) for x in xs], metric="rss_bytes", unit="bytes")
    assert growth is not None
    assert growth.shape == ("stepped" if steps else "bent")
    (cost,) = costs([replace(trial(1), growth=(growth,))])
    assert abs(cost.base.mean - 1e6) < 10_000
    assert cost.base.low is None
    (cost,) = costs([replace(trial(number), growth=(growth,)) for number in (1, 2)])
    assert abs(cost.base.mean - 1e6) < 10_000


def test_a_metric_that_only_some_trials_have_is_told_by_these() -> None:
    without = replace(trial(2), growth=trial(2).growth[:1])
    found = {it.metric: it.each.count for it in costs([trial(1), without])}
    assert found["rss_bytes"] == 2
    assert found["heap_bytes"] == 1
    assert costs([]) == ()


def grown(
    start: float, ramp: float, idle: float, *, unsettled: tuple[Stage, ...] = ("start", "idle")
) -> Trial:
    """RSS after 30, 130 and 180 s."""
    at: tuple[tuple[Stage, float, float], ...] = (
        ("start", 30, start),
        ("ramp", 130, ramp),
        ("idle", 180, idle),
    )
    readings = tuple(
        Reading(stage=stage, at_s=at_s, connections=1, settled=False, use={"rss_bytes": rss})
        for stage, at_s, rss in at
    )
    return replace(trial(1), readings=readings, unsettled=unsettled)


def test_what_grows_as_fast_without_connections_grows_with_time() -> None:
    assert with_time(grown(50e6, 60e6, 65e6)) == (100_000, 100_000)
    assert with_time(grown(50e6, 60e6, 62e6)) is None  # connections took most of it
    assert with_time(grown(50e6, 60e6, 65e6, unsettled=("start", "ramp"))) is None
    assert with_time(grown(50e6, 50e6, 50e6)) is None
    assert with_time(replace(grown(50e6, 60e6, 65e6), readings=())) is None
