"""When a step of a ramp is over, and what is said of how it ended."""

from typing import Any

import pytest

from connprobe.engine.counters import Totals
from connprobe.plan.histogram import BUCKETS, bucket
from connprobe.session.limits.climb import Climb, slow


def totals(established: int = 0, *, held: int | None = None, in_flight: int = 0, **more: Any) -> Totals:
    return Totals(
        established=established, held=established if held is None else held, in_flight=in_flight, **more
    )


def test_it_is_over_when_all_are_there() -> None:
    climb = Climb(100, totals(50))
    assert not climb.over(totals(99, in_flight=1))
    assert climb.over(totals(100))
    assert not climb.failing
    assert not climb.stalled


def test_a_few_losses_are_no_end() -> None:
    climb = Climb(1000, totals(0))
    assert not climb.over(totals(500, failures={"reset": 5}, in_flight=3))
    assert climb.over(totals(990, failures={"reset": 10}))
    assert not climb.failing


def test_more_than_a_hundredth_is() -> None:
    climb = Climb(1000, totals(0))
    assert climb.over(totals(500, failures={"refused": 7}, drops={"eof": 4}, held=496))
    assert climb.failing
    end = climb.end(totals(500, failures={"refused": 7}, drops={"eof": 4}), 496, 0)
    assert (end.connections, end.cause) == (496, "it refused connections (7, refused)")
    assert (end.failures, end.drops) == ({"refused": 7}, {"eof": 4})


def test_what_was_lost_before_does_not_count() -> None:
    climb = Climb(1000, totals(100, failures={"refused": 70}))
    assert not climb.over(totals(500, failures={"refused": 70}, in_flight=3))
    assert climb.end(totals(500, failures={"refused": 70}), 500, 30).cause == (
        "it stopped accepting: 30 connections wait in its accept queue"
    )


def test_a_standstill_with_connections_under_way_is_the_end() -> None:
    climb = Climb(1000, totals(0), stall_s=0.0)
    climb.over(totals(500, in_flight=9))
    assert climb.over(totals(500, in_flight=9))
    assert climb.stalled
    assert climb.end(totals(500), 500, 0).cause.startswith("it stopped answering")


def test_all_that_a_server_had_were_alive_when_it_died() -> None:
    climb = Climb(1000, totals(600, held=590, drops={"eof": 10}))
    end = climb.died(totals(803, held=0, drops={"reset": 793, "eof": 10}), "killed by SIGABRT", -6, "")
    assert (end.connections, end.died, end.status) == (793, True, -6)
    assert end.cause == "the server died: killed by SIGABRT"


def test_one_that_lost_most_of_them_had_them_until_then() -> None:
    climb = Climb(1000, totals(600))
    assert not climb.over(totals(803, in_flight=3))
    assert climb.over(totals(803, held=0, drops={"reset": 803}, in_flight=3))
    end = climb.end(totals(803, held=0, drops={"reset": 803}), 0, 9)
    assert (end.connections, end.cause) == (803, "it reset connections (803, reset)")


def test_latency_of_the_step_alone() -> None:
    before = [0] * BUCKETS
    before[bucket(5_000_000)] = 1000
    after = list(before)
    after[bucket(20_000)] = 100
    assert slow(before, after, None) is None
    assert slow(before, after, 30.0) is None
    assert slow(before, after, 10.0) == pytest.approx(20, rel=0.1)


def test_what_lay_in_its_accept_queue_it_never_had() -> None:
    climb = Climb(1000, totals(600))
    climb.unaccepted = 37
    assert (
        climb.died(totals(803, held=0, drops={"reset": 803}), "killed by SIGKILL", -9, "").connections == 766
    )
