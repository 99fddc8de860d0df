import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from connprobe.model import Distribution, Interval, Limit, ListenerFigures, Reading, Trial
from connprobe.plan.acceptqueue import capacity
from connprobe.plan.limits.traffic import MOST, burst_limit, burst_limits, cpu_limit, cpus_of, cpus_used


def exactly(value: float) -> Interval:
    return Interval(mean=value, low=None, high=None, count=1)


def burst(rate: float | None, stall_s: float, backlog: int) -> Limit | None:
    return burst_limit(rate, stall_s, capacity(backlog), scope="server", source="a test", fix="do something")


def cpu(
    message: Interval | None, idle: Interval | None, cpus: float, *, held: int = 4000, per_s: float = 1
) -> Limit | None:
    return cpu_limit(
        message, idle, cpus, held=held, messages_per_s=per_s, scope="server", source="a test", fix="fewer"
    )


def test_a_queue_takes_what_comes_in_a_stall() -> None:
    """A backlog of 511 has 512 places: 100 ms without accept fill them at 5,120 a second."""
    limit = burst(1000, 0.1, 511)
    assert limit is not None
    assert (limit.connections, limit.low, limit.high) == (5120, 5120, 5120)
    assert (limit.capacity, limit.per_connection, limit.used) == (512, 0.1, 100)
    assert limit.note == "new connections a second, in a stall of 100 ms"


def test_a_rate_that_overflows_it_is_said() -> None:
    limit = burst(8000, 0.1, 511)
    assert limit is not None
    assert limit.used == 512
    assert "at the 8,000 a second seen, such a stall overflows it" in (limit.note or "")


@pytest.mark.parametrize("stall_s", [0.0, -1.0, math.nan, math.inf])
def test_no_stall_no_limit(stall_s: float) -> None:
    assert burst(None, stall_s, 511) is None


def test_a_stall_that_is_inferred_is_between_two() -> None:
    most, least = (
        Distribution(count=7, mean=each, p50=each, p90=each, p99=each, max=each) for each in (900, 100)
    )
    listener = ListenerFigures("127.0.0.1:80", 3, 512, 0, most, "a test", wait_least_ms=least)
    (limit,) = burst_limits([listener], 1000)
    assert (limit.per_connection, limit.low, limit.connections, limit.high) == (0.1, 568, 5120, 5120)
    assert limit.source.endswith(", at least")
    assert limit.note is not None
    assert "100 ms" in limit.note
    none = replace(most, max=0.0)
    assert burst_limits([replace(listener, wait_least_ms=none)], 1000) == []


def test_messages_fill_a_cpu() -> None:
    limit = cpu(exactly(50e-6), exactly(10e-6), 2, held=4000)
    assert limit is not None
    # 60 millionths of a CPU each, of two.
    assert limit.connections == 33_333
    assert limit.low <= 33_333 <= limit.high
    assert limit.beyond == pytest.approx(8.33, abs=0.01)
    assert limit.note == "at one message a second on each connection"
    often = cpu(exactly(50e-6), None, 1, held=4000, per_s=10)
    assert often is not None
    assert often.connections == 2000
    assert often.note == "at 10 messages a second on each connection"


def test_idle_connections_alone_can_fill_a_cpu() -> None:
    limit = cpu(None, Interval(mean=2e-5, low=1e-5, high=4e-5, count=3), 1, held=4000)
    assert limit is not None
    assert (limit.low, limit.connections, limit.high) == (25_000, 50_000, 100_000)
    assert limit.note == "idle"


def test_no_use_no_limit() -> None:
    assert cpu(None, None, 2, held=1) is None
    assert cpu(exactly(0), exactly(-1e-9), 2, held=1) is None


costs = st.floats(-1e-3, 1.0)


@given(costs, costs, costs, st.integers(1, 1024), st.integers(0, 10**6))
def test_bounds_are_in_order(one: float, two: float, three: float, cpus: int, held: int) -> None:
    low, mean, high = sorted((one, two, three))
    interval = Interval(mean=mean, low=low, high=high, count=3)
    limit = cpu(interval, interval, cpus, held=held)
    if limit is not None:
        assert 0 <= limit.low <= limit.connections <= limit.high <= MOST


def ramped(*at: tuple[float, float | None], message_cpu_s: float | None = None) -> Trial:
    """at: (second, CPU seconds by then)."""
    return Trial(
        number=1,
        readings=tuple(
            Reading(stage="ramp", at_s=at_s, connections=100, settled=True, use={}, cpu_s=cpu_s)
            for at_s, cpu_s in at
        ),
        growth=(),
        limits=(),
        held=100,
        message_cpu_s=message_cpu_s,
        messaging_s=1.0,
    )


def test_what_was_used_at_once_is_what_it_can_use_at_the_least() -> None:
    assert cpus_used([ramped((0, 0), (2, 1), (4, 4.6), (4.01, 9), (6, None), (7, 9))]) == pytest.approx(1.8)
    assert cpus_used([ramped(message_cpu_s=3.1), ramped((0, 0), (1, 0.5))]) == 3.1
    assert cpus_used([ramped()]) == 0


@pytest.mark.parametrize(
    ("used", "processes", "threads", "host", "cpus", "note"),
    [
        (3.1, 1, 9, 8, 3.1, "it used 3.1 CPUs at once: as many at the least"),  # Go
        (1.05, 1, 11, 8, 1, "one CPU for each process: more if it is threaded"),  # Node: ticks
        (0.4, 1, 1, 8, 1, None),  # one thread for certain
        (0.4, 4, 40, 2, 2, None),  # more processes than CPUs
        (0.4, 3, None, 8, 3, "one CPU for each process: more if it is threaded"),
        (8.3, 1, 9, 8, 8, "it used 8.3 CPUs at once: as many at the least"),
    ],
)
def test_a_process_may_use_more_than_one_cpu(
    used: float, processes: int, threads: int | None, host: int, cpus: float, note: str | None
) -> None:
    assert cpus_of(used, processes, threads, host) == (cpus, note)


def test_what_is_not_known_of_the_cpus_is_said() -> None:
    limit = cpu_limit(exactly(1e-5), None, 1, held=1, scope="", source="", fix="", note="more if threaded")
    assert limit is not None
    assert limit.note == "at one message a second on each connection; more if threaded"
