"""From readings to what a connection costs and where it ends."""

import pytest

from connprobe.model import Ceiling, Reading, Stage
from connprobe.plan.prediction import growths, predict

HEAP = Ceiling(
    resource="heap",
    scope="server (pid 1)",
    capacity=40_000_000,
    source="test",
    fix="more",
    metric="heap_bytes",
    unit="bytes",
    exact=False,
)


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
        [HEAP, Ceiling(**{f: getattr(HEAP, f) for f in HEAP.__struct_fields__} | {"metric": "pids"})],
        1000,
        at=0,
    )
    assert [limit.resource for limit in found.limits] == ["heap"]
    assert "was not measured" in found.left_out[0].reason
