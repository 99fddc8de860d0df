"""From readings to what a connection costs and where it ends."""

import pytest
from msgspec.structs import replace

from connprobe.model import Reading, Stage
from connprobe.plan.limits.limits import MOST
from connprobe.plan.limits.prediction import growths, predict
from connprobe.plan.limits.settle import BOUND_S
from made import a_ceiling

HEAP = a_ceiling("heap", 40_000_000, "heap_bytes", unit="bytes", exact=False)


def reading(stage: Stage, connections: int, heap: float, **more: float) -> Reading:
    return Reading(
        stage=stage, at_s=0.0, connections=connections, settled=True, use={"heap_bytes": heap, **more}
    )


def ramp(base: float = 3e6, each: float = 4000, count: int = 5) -> list[Reading]:
    return [reading("ramp", n * 200, base + each * n * 200) for n in range(1, count + 1)]


def test_the_start_and_what_follows_the_ramp_are_not_fitted() -> None:
    readings = [
        reading("start", 0, 1e6),
        *ramp(),
        reading("peak", 1000, 9e9),
        reading("messaging", 1000, 9e9),
    ]
    grown = growths(readings)["heap_bytes"]
    assert grown.per_connection == pytest.approx(4000)
    assert grown.base == pytest.approx(3e6)
    assert grown.readings == 5


def test_the_start_serves_where_the_ramp_is_too_short() -> None:
    readings = [reading("start", 0, 3e6), *ramp(count=2)]
    assert growths(readings)["heap_bytes"].readings == 3


def test_a_limit_with_its_interval() -> None:
    found = predict(ramp(), [HEAP], 1000, at=1000)
    (limit,) = found.limits
    assert limit.connections == 9250
    assert limit.low < 9250 < limit.high
    assert found.left_out == ()


def test_memory_that_drifted_widens_it() -> None:
    (settled,) = predict(ramp(), [HEAP], 1000, at=1000).limits
    (drifted,) = predict(ramp(), [HEAP], 1000, at=1000, off_bytes=200_000.0).limits
    assert drifted.connections == settled.connections
    assert drifted.high - drifted.low > 1.2 * (settled.high - settled.low)


def test_a_metric_that_was_never_read_gives_no_limit() -> None:
    found = predict(
        ramp(),
        [HEAP, replace(HEAP, metric="pids")],
        1000,
        at=0,
    )
    assert [limit.resource for limit in found.limits] == ["heap"]
    assert "not measured" in found.left_out[0].reason


def test_what_leaks_meanwhile_widens_the_cost_of_a_connection() -> None:
    """100 kB a second are lost, and each step takes 30 s: of 19,000 B a connection, 15,000 are time."""
    leaking = [
        replace(each, at_s=30.0 * n, use={"heap_bytes": each.use["heap_bytes"] + 3e6 * n})
        for n, each in enumerate(ramp(), 1)
    ]
    (settled,) = predict(leaking, [HEAP], 1000, at=1000).growth
    (drifted,) = predict(leaking, [HEAP], 1000, at=1000, off_bytes=100_000 * BOUND_S).growth
    assert drifted.per_connection == settled.per_connection == pytest.approx(19_000)
    assert settled.low > 18_000
    assert drifted.low == pytest.approx(4000, rel=0.01)
    assert drifted.base_low < settled.base_low
    (limit,) = predict(leaking, [HEAP], 1000, at=1000, off_bytes=100_000 * BOUND_S).limits
    assert limit.connections == 1947
    # 1,000 connections had 22 MB by then; at 4,000 B each the rest of 40 MB is that of 4,500 more.
    assert limit.high > 5500
    (limit,) = predict(leaking, [HEAP], 1000, at=1000, off_bytes=200_000 * BOUND_S).limits
    assert limit.high == MOST  # all that it took may have been time


def busy_host(readings: int = 5) -> list[Reading]:
    """The server takes a descriptor a connection; others open files and start threads by the thousand."""
    return [
        reading(
            "ramp" if number else "start",
            number * 100,
            3e6,
            fds=20 + number * 100,
            threads=7,
            files=5000 + 1580 * number,
            host_threads=300 + 1200 * number,
        )
        for number in range(readings + 1)
    ]


def test_what_others_on_the_host_do_is_no_cost_of_a_connection() -> None:
    found = growths(busy_host(), ends=2)
    files, threads = found["files"], found["host_threads"]
    assert (files.low, files.per_connection, files.high) == (2, 2, 2)  # both ends are here
    assert files.base == 5000 + 1580 * 5 - 2 * 500
    assert threads.shape == "flat"
    assert (threads.per_connection, threads.base) == (0, 300 + 1200 * 5)
    assert growths(busy_host())["files"].per_connection == 1


def test_threads_that_begin_with_the_first_connection_are_no_cost_of_each() -> None:
    readings = [
        reading("start", 0, 3e6, threads=1, host_threads=300),
        reading("ramp", 1, 3e6, threads=13, host_threads=312),
    ]
    table = a_ceiling("threads", 32_768, "host_threads", scope="host")
    assert predict(readings, [table], 1, at=1).limits == ()


def mapped(*values: tuple[Stage, int, float]) -> list[Reading]:
    return [reading(stage, connections, 1e6, maps=count) for stage, connections, count in values]


MAPPINGS = replace(HEAP, resource="max_map_count", metric="maps", unit="count", capacity=65530)
# Of Node with arrays: V8 maps pages, and gives them back when it collects.
COLLECTED = mapped(
    ("start", 0, 95),
    ("ramp", 400, 121),
    ("ramp", 800, 129),
    ("ramp", 1200, 137),
    ("ramp", 1600, 145),
    ("ramp", 2000, 155),
)


def test_mappings_that_move_while_no_connection_comes_are_no_limit() -> None:
    found = predict([*COLLECTED, *mapped(("idle", 2000, 143))], [MAPPINGS], 2000, at=2000)
    assert found.limits == ()
    (left,) = found.left_out
    assert left.reason.startswith("does not grow measurably: 0.02")
    assert left.not_before is not None
    assert left.not_before > 2_000_000
    (still,) = predict([*COLLECTED, *mapped(("idle", 2000, 155))], [MAPPINGS], 2000, at=2000).limits
    assert still.resource == "max_map_count"


def test_mappings_that_each_connection_takes_are_a_limit() -> None:
    """A stack and its guard page for each thread."""
    readings = [
        *mapped(*(("ramp", n, 90 + 2 * n) for n in (100, 200, 300))),
        *mapped(("peak", 300, 693), ("idle", 300, 691)),
    ]
    (limit,) = predict(readings, [MAPPINGS], 300, at=300).limits
    assert limit.connections == 32720
