"""Thresholds: what is understood, what is refused and how, and how a record is judged."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from connprobe.errors import UsageError
from connprobe.model import Distribution, LoadFigures, RunRecord
from connprobe.plan.threshold import METRICS, Threshold, judge, parse_threshold
from report.conftest import a_record


@pytest.mark.parametrize(
    ("text", "metric", "sign", "bound", "share"),
    [
        ("handshake.p99<50ms", "handshake.p99", "<", 50.0, False),
        (" message.mean <= 0.5 s ", "message.mean", "<=", 500.0, False),
        ("message.p999<800us", "message.p999", "<", 0.8, False),
        ("total<2m", "total", "<", 120.0, False),
        ("connections_per_s>=2000", "connections_per_s", ">=", 2000.0, False),
        ("failed<1", "failed", "<", 1.0, False),
        ("wrong<=0.5%", "wrong", "<=", 0.005, True),
    ],
)
def test_understood(text: str, metric: str, sign: str, bound: float, share: bool) -> None:
    found = parse_threshold(text)
    assert found._replace(bound=0.0) == Threshold(text.strip(), metric, sign, 0.0, share)
    assert found.bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "says", "fix"),
    [
        ("handshake.p99", "is not METRIC<VALUE", "'handshake.p99<50ms'"),
        ("handshake.p99=50ms", "is not METRIC<VALUE", "'handshake.p99<50ms'"),
        ("handshake.p99<-1ms", "is not METRIC<VALUE", "'handshake.p99<50ms'"),
        ("handshake.p95<50ms", "there is no handshake.p95", "'handshake.mean<50ms'"),
        ("latency<50ms", "there is no latency", "'handshake.p99<50ms'"),
        ("handshake.p99<50", "it needs us, ms or s", "'handshake.p99<50ms'"),
        ("message.max<5%", "it needs us, ms or s", "'message.max<50ms'"),
        ("failed<50ms", "failed is no time", "'failed<1%'"),
        ("connections_per_s>5%", "no share of anything", "'connections_per_s>2000'"),
        ("total<60", "it needs us, ms or s", "'total<60s'"),
        ("", "is not METRIC<VALUE", "'handshake.p99<50ms'"),
    ],
)
def test_refused(text: str, says: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_threshold(text)
    assert says in caught.value.message
    assert repr(text) in caught.value.message
    assert caught.value.fix == f"--threshold {fix}"
    parse_threshold(fix.strip("'"))  # what is proposed is understood


@given(st.text(max_size=40))
def test_nothing_else_is_raised(text: str) -> None:
    with suppress(UsageError):
        assert parse_threshold(text).metric in METRICS


def took(**given: float) -> Distribution:
    values = {"mean": 2.0, "p50": 1.0, "p90": 3.0, "p99": 40.0, "p999": 90.0, "max": 100.0, **given}
    return Distribution(count=1009, **values)


@pytest.fixture
def record() -> RunRecord:
    figures = LoadFigures(
        visited=989,
        messages=1000,
        answered=990,
        wrong=1,
        total_s=2.0,
        messages_per_s=495.0,
        sent_bytes=None,
        received_bytes=None,
        late=None,
    )
    return replace(
        a_record(),
        command="load",
        requested=1100,
        held=0,
        not_attempted=100,
        failed=7,
        dropped=3,
        connections_per_s=500.0,
        handshake_ms=took(),
        message_ms=None,
        load=figures,
    )


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("handshake.p99<40ms", 40.0, False),
        ("handshake.p99<=40ms", 40.0, True),
        ("handshake.p999<0.1s", 90.0, True),
        ("handshake.max<100ms", 100.0, False),
        ("message.p50<1h", None, False),  # not one was answered
        ("total<2001ms", 2.0, True),
        ("total>1s", 2.0, True),
        ("connections_per_s>500", 500.0, False),
        ("failed<11", 10.0, True),
        ("failed<=1%", 10.0, True),  # of the thousand that were attempted
        ("failed<1%", 10.0, False),
        ("wrong<=0.101%", 1.0, True),  # of the 993 that were established
        ("wrong<=0.1%", 1.0, False),
    ],
)
def test_judged(record: RunRecord, text: str, value: float | None, met: bool) -> None:
    first, *_ = judge([text], record)
    assert (first.threshold, first.value, first.met) == (text, value, met)


def test_wrong_is_a_share_of_connections_where_no_message_was_sent(record: RunRecord) -> None:
    """A server that speaks first: each gets a wrong echo before it has said anything."""
    assert record.load is not None
    figures = replace(record.load, visited=60, messages=0, answered=0, wrong=60)
    spoken_to = replace(record, failed=0, dropped=0, requested=120, not_attempted=0, load=figures)
    assert [it.met for it in judge(["wrong<=50%", "wrong<50%"], spoken_to)] == [True, False]


def test_failures_that_nobody_allowed(record: RunRecord) -> None:
    assert [it.threshold for it in judge([], record)] == ["failed<=0", "wrong<=0"]
    assert [it.met for it in judge(["failed<2%"], record)] == [True, False]
    assert [it.met for it in judge(["failed<2%", "wrong<5"], record)] == [True, True]


def test_every_metric_is_measured(record: RunRecord) -> None:
    whole = replace(record, message_ms=took())
    units = {"total": "s", "connections_per_s": "", "failed": "", "wrong": ""}
    for metric in METRICS:
        (judged, *_) = judge([f"{metric}>=0{units.get(metric, 'ms')}"], whole)
        assert judged.met, metric
