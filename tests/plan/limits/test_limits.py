import math
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from connprobe.model import Ceiling, Growth, Limit, Step
from connprobe.plan.limits.growth import fit
from connprobe.plan.limits.limits import left_out, limits
from made import a_ceiling

FDS = a_ceiling("nofile", 20_000, "fds", fix="ulimit -n 40000")
HEAP = a_ceiling("heap", 80 << 20, "heap_bytes", unit="bytes", exact=False, fix="--max-old-space-size=160")


def grown(metric: str, xs: list[int], ys: list[float]) -> dict[str, Growth]:
    growth = fit(xs, ys, metric=metric, unit="bytes" if metric.endswith("_bytes") else "count")
    assert growth is not None
    return {metric: growth}


def line(
    metric: str, base: float, slope: float, xs: tuple[int, ...] = (0, 1000, 2000, 3000)
) -> dict[str, Growth]:
    return grown(metric, list(xs), [base + slope * x for x in xs])


def only(ceiling: Ceiling, growths: dict[str, Growth], held: int = 3000, **more: Any) -> Limit:
    (limit,) = limits([ceiling], growths, held, **more)
    return limit


def test_descriptors_to_the_letter() -> None:
    limit = only(FDS, line("fds", 23, 1))
    assert (limit.connections, limit.low, limit.high) == (19_977, 19_977, 19_977)
    assert (limit.base, limit.per_connection) == (23, 1)
    assert limit.beyond == pytest.approx(6.659)
    assert (limit.fix, limit.source, limit.note, limit.approximate) == (FDS.fix, FDS.source, None, False)


def test_what_is_kept_free_is_no_room() -> None:
    heap = replace(FDS, metric="heap_bytes", unit="bytes", capacity=40e6, kept_free=1e6, resource="heap")
    limit = only(heap, line("heap_bytes", 3e6, 4000))
    assert (limit.connections, limit.capacity) == (9000, 40e6)


def test_a_proxy_takes_two_descriptors_and_the_odd_one_is_no_connection() -> None:
    assert only(FDS, line("fds", 23, 2)).connections == (20_000 - 23) // 2


@given(st.integers(0, 10**5), st.integers(1, 1000), st.integers(2, 10**5), st.integers(1, 10**9))
def test_whole_numbers_give_whole_answers(base: int, slope: int, held: int, room: int) -> None:
    """Integer arithmetic is the judge, for any base, cost and capacity."""
    growths = line("fds", base, slope, (0, held // 2, held))
    limit = only(replace(FDS, capacity=base + slope * held + room), growths, held)
    assert limit.connections == held + room // slope
    if limit.connections <= 10 * held:
        assert limit.low == limit.high == limit.connections
    assert limit.high == limit.connections  # a connection cannot take less than that whole number
    if limit.connections > max(1000, 20 * held):
        assert limit.low < limit.connections


WORKERS = replace(FDS, metric="process_fds", processes=3)


def uneven(*fullest: int, each: int = 1) -> dict[str, Growth]:
    """Three workers of 10 descriptors, at 150 connections more for each figure of the fullest."""
    xs = [150 * number for number in range(1, len(fullest) + 1)]
    fits = [
        fit(xs, list(map(float, fullest)), metric="process_fds", unit="count"),
        fit(xs, [30.0 + each * x for x in xs], metric="fds", unit="count"),
    ]
    return {growth.metric: growth for growth in fits if growth is not None}


def test_uneven_workers_end_between_all_on_the_fullest_and_all_alike() -> None:
    growths = uneven(83, 140)
    assert "process_fds" not in growths  # two readings, and no whole number
    limit = only(replace(WORKERS, used=140), growths, 300)
    assert limit.low == 300 + (20_000 - 140)
    assert limit.high == 3 * 20_000
    # It has 140 of 330 descriptors so far.
    assert limit.connections == 300 + int((20_000 - 140) * 330 / 140)
    assert "unevenly to the 3 processes" in (limit.note or "")
    (proxy,) = limits([replace(WORKERS, used=150)], uneven(90, 150, each=2), 300)
    assert (proxy.low, proxy.high) == (300 + (20_000 - 150) // 2, 30_000)


def test_all_connections_on_one_worker_so_far_may_spread_later() -> None:
    limit = only(replace(WORKERS, used=460), uneven(160, 310, 460), 450)
    assert (limit.connections, limit.low, limit.high) == (19_990, 19_990, 60_000)


def test_a_line_of_the_fullest_is_kept_within_what_is_possible() -> None:
    growths = uneven(72, 134, 190, 251)
    assert growths["process_fds"].residual > 0
    limit = only(replace(WORKERS, used=251), growths, 600)
    assert 600 + 20_000 - 251 <= limit.low < limit.connections < limit.high <= 60_000
    alone = only(replace(WORKERS, used=251, processes=1), growths, 600)
    assert alone.connections == limit.connections


def test_without_the_descriptors_of_all_nothing_is_known_of_uneven_workers() -> None:
    growths = {name: growth for name, growth in uneven(83, 140).items() if name != "fds"}
    assert limits([WORKERS], growths, 300) == ()
    (out,) = left_out([WORKERS], growths, 300)
    assert (out.resource, out.scope, out.never) == ("nofile", "server (pid 7)", False)


def test_the_band_of_the_fit_crossed_by_the_capacity_holds_95_percent() -> None:
    """Predicted from 4,000, true at four times as many: where the next reading there meets the capacity."""
    for readings in (5, 6, 8):
        rng, inside = random.Random(readings), 0
        xs = [4000 * index // (readings - 1) for index in range(readings)]
        for _ in range(200):
            base, slope = 20 + 20 * rng.random(), 1 + rng.random()
            growths = grown("threads", xs, [base + slope * x + rng.gauss(0, 15) for x in xs])
            capacity = base + slope * 16_000 + rng.gauss(0, 15)
            limit = only(replace(FDS, metric="threads", capacity=capacity), growths, 4000)
            inside += limit.low <= 16_000 <= limit.high
        assert 0.88 <= inside / 200 <= 0.99


def test_a_heap_is_approached_not_kept() -> None:
    growths = line("heap_bytes", 4_000_000, 4733)
    exact = only(replace(HEAP, exact=True), growths)
    about = only(HEAP, growths)
    assert exact.connections == about.connections == ((80 << 20) - 4_000_000) // 4733
    assert about.high - about.low > 1.5 * (exact.high - exact.low)
    # Measured with Node 20: it died at 16,851 with 80 MB.
    assert about.low < 16_851 < about.high


def test_the_interval_grows_beyond_what_was_held_and_says_when_it_guesses() -> None:
    growths = line("rss_bytes", 40e6, 10_000)
    ceiling = replace(HEAP, metric="rss_bytes", exact=True, resource="cgroup_memory")
    relative, notes = [], []
    for factor in (1.5, 4, 9.9, 40, 100):
        limit = only(replace(ceiling, capacity=40e6 + 10_000 * 3000 * factor), growths)
        relative.append((limit.high - limit.low) / limit.connections)
        notes.append(limit.note)
        assert limit.beyond == pytest.approx(factor, rel=1e-3)
    assert relative == sorted(relative)
    assert relative[1] < 0.025
    assert relative[-1] > 0.2
    assert [note is not None and "a guess" in note for note in notes] == [False, False, False, True, True]


def test_what_is_known_to_the_letter_is_no_guess() -> None:
    ports = replace(FDS, resource="source_ports", metric=None, per_connection=1)
    far = only(ports, {}, 10)
    assert (far.low, far.high, far.beyond, far.note) == (20_000, 20_000, 2000, None)


def test_a_ceiling_without_a_metric_counts_by_itself() -> None:
    ports = a_ceiling("source_ports", 28_232, scope="client", per_connection=1, used=3100)
    # 100 of the 3,100 in use are of others, whether they are counted now or were at the start.
    assert only(ports, {}).connections == 28_132
    assert only(replace(ports, used=100), {}, at=0).connections == 28_132
    assert only(replace(ports, used=None), {}).connections == 28_232
    assert not limits([replace(ports, per_connection=None)], {}, 3000)


def test_growth_since_the_start_is_put_upon_what_is_used() -> None:
    used = 2e9 + 3000 * 10_000
    memory = a_ceiling("memory", 8e9, "memory_bytes", scope="host", used=used, unit="bytes")
    assert only(memory, line("memory_bytes", 0, 10_000)).connections == 600_000
    assert only(replace(memory, used=2e9), line("memory_bytes", 0, 10_000), at=0).connections == 600_000


def test_what_was_held_is_possible() -> None:
    limit = only(replace(FDS, capacity=1000), line("fds", 23, 1))
    assert (limit.connections, limit.low, limit.high) == (3000, 3000, 3000)
    assert limit.note is not None
    assert "already" in limit.note


def test_no_limit_where_nothing_ends() -> None:
    rng = random.Random(2)
    xs = [0, 1000, 2000, 3000, 3000]
    growths = line("fds", 5, 0) | grown("rss_bytes", xs, [50e6 + rng.gauss(0, 1e5) for _ in xs])
    ceilings = [
        FDS,
        replace(FDS, metric="threads"),
        replace(FDS, capacity=math.inf),
        replace(FDS, capacity=float((1 << 63) - 1), metric=None, per_connection=1),
        replace(HEAP, metric="rss_bytes"),
    ]
    assert limits(ceilings, growths, 3000) == ()
    reasons = [each.reason for each in left_out(ceilings, growths, 3000)]
    assert reasons[0] == "does not grow"
    assert reasons[1] == "not measured, or too seldom (threads)"
    assert reasons[2:4] == ["unlimited", "unlimited"]
    assert reasons[4].startswith("does not grow measurably: ")
    never = [each.never for each in left_out(ceilings, growths, 3000)]
    assert never == [True, False, True, True, False]
    bound = left_out(ceilings[4:], growths, 3000)[0].not_before
    assert bound is not None
    assert bound == int(((80 << 20) - growths["rss_bytes"].base) / growths["rss_bytes"].high)


def test_memory_whose_slabs_are_not_known_has_room_by_rss_all_the_same() -> None:
    memory = replace(HEAP, resource="memory", scope="host", metric="memory_bytes", capacity=8e9)
    (out,) = left_out([memory], line("rss_bytes", 40e6, 10_000), 3000)
    assert out.not_before is not None
    assert 8e9 / 27_000 < out.not_before < 8e9 / 26_600  # 10,000 B, and 16,600 in the kernel
    (out,) = left_out([memory], {}, 3000)
    assert out.not_before is None


def test_unsettled_memory_widens() -> None:
    growths = line("heap_bytes", 4_000_000, 4733)
    calm, uneasy = only(HEAP, growths), only(HEAP, growths, off={"heap_bytes": 500_000.0})
    assert uneasy.connections == calm.connections
    assert uneasy.high - uneasy.low > 1.5 * (calm.high - calm.low)
    assert "still moved" in (uneasy.note or "")


@pytest.mark.parametrize("curvature", [-0.1, 0.2])
def test_a_bend_leaves_open_whether_it_goes_on(curvature: float) -> None:
    rng = random.Random(8)
    xs = [500 * index for index in range(9)]
    second = curvature * 5000 / 8000
    for _ in range(30):
        ys = [4e6 + 5000 * x + second * (x - 4000) ** 2 + rng.gauss(0, 3e3) for x in xs]
        limit = only(replace(HEAP, exact=True), grown("heap_bytes", xs, ys), 4000)
        room = (80 << 20) - (4e6 + 5000 * 4000)
        goes_on = 4000 + 2 * room / (5000 + math.sqrt(5000**2 + 4 * second * room))
        stays = 4000 + room / 5000
        assert limit.low <= min(goes_on, stays)
        assert max(goes_on, stays) <= limit.high
        assert "bends" in (limit.note or "")


def test_a_table_that_doubles_may_do_so_before_the_limit() -> None:
    """2,000 B a connection and a table of 500 B a slot, that doubles at each power of two."""
    rng, xs = random.Random(9), [1100, 1300, 1500, 1700, 1900, 2100, 2300, 2500, 2700, 2900]

    def taken(x: float) -> float:
        return 4e6 + 2000 * x + 500 * 2.0 ** math.ceil(math.log2(max(x, 1)))

    for true in (3500, 5000, 9000, 15_000, 17_000):
        growths = grown("heap_bytes", xs, [taken(x) + rng.gauss(0, 3e3) for x in xs])
        assert growths["heap_bytes"].shape == "stepped"
        limit = only(replace(HEAP, exact=True, capacity=taken(true)), growths, 2900)
        assert limit.low <= true <= limit.high
        assert "steps" in (limit.note or "")


def test_steps_that_come_every_so_often_go_on_so() -> None:
    growth = Growth(
        metric="rss_bytes",
        unit="bytes",
        base=10e6,
        base_low=10e6,
        base_high=10e6,
        per_connection=1000,
        low=1000,
        high=1000,
        residual=0,
        readings=12,
        first=0,
        last=3000,
        center=1500,
        steps=(Step(connections=1000, size=1e6), Step(connections=2000, size=1e6)),
        shape="stepped",
    )
    # One more at 3,000, 4,000 ... each: 9,500 connections take 10 + 9.5 + 7 MB. Spread evenly, 9,250.
    limit = only(replace(HEAP, exact=True, metric="rss_bytes", capacity=26.5e6), {"rss_bytes": growth})
    assert limit.connections == 9250
    assert limit.low <= 8750
    assert limit.high >= 16_500


def test_rss_for_a_heap_is_approximate() -> None:
    assert only(replace(HEAP, metric="rss_bytes"), line("rss_bytes", 40e6, 10_000)).approximate
    assert not only(HEAP, line("heap_bytes", 4e6, 4733)).approximate


def test_the_first_to_bind_comes_first() -> None:
    growths = line("heap_bytes", 4_000_000, 4733) | line("fds", 23, 1)
    assert [limit.resource for limit in limits([FDS, HEAP], growths, 3000)] == ["heap", "nofile"]


points = st.lists(
    st.tuples(st.integers(0, 10**5), st.floats(0, 1e10, allow_subnormal=False)), min_size=3, max_size=9
)


@settings(deadline=None)
@given(points, st.floats(0, 1e13), st.floats(1, 100), st.booleans(), st.integers(0, 10**5), st.floats(0, 1e7))
@example([(0, 0.0), (0, 0.0), (2431, 261451479.0)], 34044075171.0, 2.0, False, 1888, 0.0)
@example([(0, 8.4e9), (50, 6.6e9), (447, 0.0), (447, 0.0), (19912, 0.0)], 3106023.0, 2.0, False, 0, 0.0)
def test_more_capacity_never_fewer_connections(
    readings: list[tuple[int, float]], capacity: float, more: float, exact: bool, held: int, off: float
) -> None:
    growth = fit([x for x, _ in readings], [y for _, y in readings], metric="rss_bytes", unit="bytes")
    if growth is None:
        return
    ceiling = replace(HEAP, metric="rss_bytes", capacity=capacity, exact=exact)
    doubts = {"rss_bytes": off}
    found = [
        limits([replace(ceiling, capacity=each)], {"rss_bytes": growth}, held, off=doubts)
        for each in (capacity, capacity * more)
    ]
    for each in found:
        for limit in each:
            assert held <= limit.low <= limit.connections <= limit.high
            assert math.isfinite(limit.per_connection)
    if all(found):
        (less,), (enough,) = found
        assert less.connections <= enough.connections
        assert less.low <= enough.low
        assert less.high <= enough.high
    assert len(left_out([ceiling], {"rss_bytes": growth}, held)) == 1 - len(found[0])


@given(st.integers(-10, 10))
def test_the_unit_does_not_matter(power: int) -> None:
    xs, ys = [0, 700, 1400, 2100, 2800], [4.1e6, 7.2e6, 10.9e6, 14.1e6, 17.3e6]
    one = only(replace(HEAP, metric="files"), grown("files", xs, ys))
    scaled = grown("files", xs, [y * 2.0**power for y in ys])
    other = only(replace(HEAP, metric="files", capacity=HEAP.capacity * 2.0**power), scaled)
    assert (other.connections, other.low, other.high) == (one.connections, one.low, one.high)
