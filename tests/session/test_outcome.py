"""The record out of what was seen: complete runs, broken ones, and ones that never began."""

import signal
from typing import Any

import msgspec
import pytest

from connprobe.engine import counters
from connprobe.engine.counters import Totals
from connprobe.fleet.shared import SharedTable
from connprobe.model import HoldPlan, HoldRequest, HostRecord, RunRecord, ServerUse, Target
from connprobe.plan.histogram import bucket
from connprobe.session.outcome import Seen, build_record

TARGET = Target(host="server", address="10.0.0.1", port=80, family="ipv4")
HOST = HostRecord(kernel="6.18", cpus=2, memory_total_bytes=1 << 34, nofile=20_000, python="3.11")
PLAN = HoldPlan(
    target=TARGET,
    count=1009,
    nofile=20_000,
    workers=2,
    server_processes=0,
    source_addresses=1,
    ports_per_source=28_232,
    source_ports=None,
    memory_bytes=1,
    alias_interface=None,
    alias_addresses=(),
    shards=(),
)


def totals(**figures: Any) -> Totals:
    nothing: dict[str, Any] = {**dict.fromkeys(Totals._fields, 0), "failures": {}, "drops": {}}
    return Totals(**{**nothing, **figures})


def use(rss: int, cpu: float) -> ServerUse:
    return ServerUse(pids=(7,), rss_bytes=rss, pss_bytes=None, cpu_s=cpu, fds=None, threads=1, complete=True)


def record(seen: Seen, by: signal.Signals | None = None, **request: Any) -> RunRecord:
    asked = HoldRequest(target="server:80", count=1009, **request)
    made = build_record(asked, PLAN, TARGET, HOST, seen, by)
    decoded = msgspec.json.decode(msgspec.json.encode(made), type=RunRecord)
    assert decoded == made
    return made


def finished(**figures: Any) -> Seen:
    good = {"started": 1009, "established": 1009, "held": 1009, **figures}
    return Seen(started_at="2030-01-01T00:00:00+00:00", totals=totals(**good), checked=True, ramp_s=2.0)


def test_a_good_run() -> None:
    seen = finished()
    seen.server_start, seen.server_idle, seen.server_last = (
        use(1000, 1.0),
        use(102_909, 2.0),
        use(103_000, 3.5),
    )
    seen.server_peak_rss_bytes = 200_000
    seen.measured_at = 1009
    made = record(seen)
    assert (made.outcome, made.held, made.not_attempted) == ("done", 1009, 0)
    assert made.connections_per_s == 504.5
    assert made.server is not None
    assert (made.server.bytes_per_connection, made.server.peak_rss_bytes, made.server.cpu_s) == (
        101.0,
        200_000,
        2.5,
    )
    assert "held" not in made.unknown


@pytest.mark.parametrize(
    ("held", "fail_under", "outcome"),
    [
        (1009, None, "done"),
        (1008, None, "missed"),
        (1008, 1000, "done"),
        (999, 1000, "missed"),
        (0, 0, "done"),
    ],
)
def test_what_counts_as_missed(held: int, fail_under: int | None, outcome: str) -> None:
    assert record(finished(held=held), fail_under=fail_under).outcome == outcome


def test_a_lost_worker_is_a_missed_run_with_a_verdict() -> None:
    seen = finished()
    seen.lost = {1: "killed by SIGKILL"}
    made = record(seen, fail_under=0)
    assert made.outcome == "missed"
    assert any("Worker 1 was lost" in verdict.text and "SIGKILL" in verdict.text for verdict in made.verdicts)


def test_workers_lost_alike_share_a_verdict() -> None:
    seen = finished()
    seen.lost = {13: "killed by SIGKILL", 2: "ended with status 1", 3: "killed by SIGKILL"}
    texts = [verdict.text for verdict in record(seen, fail_under=0).verdicts]
    assert [text for text in texts if "lost in the run" in text] == [
        "Workers 3, 13 were lost in the run: killed by SIGKILL. Their connections count as worker_lost.",
        "Worker 2 was lost in the run: ended with status 1. Its connections count as worker_lost.",
    ]


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_never_began_is_all_unknown(by: signal.Signals) -> None:
    made = record(Seen(started_at="2030-01-01T00:00:00+00:00"), by)
    assert (made.outcome, made.held, made.not_attempted) == ("interrupted", 0, 1009)
    assert made.handshake_ms is None
    assert made.server is None
    assert made.client.pss_bytes is None
    assert {"held", "client.pss_bytes", "server"} <= set(made.unknown)


def test_every_connection_is_accounted_for() -> None:
    made = record(finished(established=600, held=550, failures={"refused": 9}, drops={"eof": 50}))
    assert made.not_attempted == 400
    assert (made.failed, made.dropped) == (9, 50)
    assert made.held + made.failed + made.dropped + made.not_attempted == made.requested


def test_handshakes_stay_below_their_maximum() -> None:
    seen = finished(handshake_sum_us=1009 * 1500, handshake_max_us=1501)
    seen.table = SharedTable(2, counters.COLUMNS)
    for index, count in ((0, 500), (1, 509)):
        seen.table.row(index)[counters.HANDSHAKES + bucket(1501)] = count
    made = record(seen).handshake_ms
    assert made is not None
    assert (made.count, made.mean, made.max) == (1009, 1.5, 1.501)
    assert made.p50 == made.p99 <= made.max
    assert made.p50 == pytest.approx(1.501, rel=0.016)


def test_details_of_all_workers_are_added_up() -> None:
    seen = finished()
    seen.failure_details = {0: {"refused": {"a": 1}}, 1: {"refused": {"a": 2, "b": 3}, "tls": {"c": 4}}}
    assert record(seen).failure_details == {"refused": {"a": 3, "b": 3}, "tls": {"c": 4}}


def test_what_was_not_undone_is_said_with_the_remedy() -> None:
    seen = finished()
    seen.not_undone = ("10.0.0.32 is still on eth0",)
    (verdict,) = [each for each in record(seen).verdicts if "10.0.0.32" in each.text]
    assert (verdict.level, verdict.fix) == ("bad", "connprobe restore")


def test_what_nobody_checked_is_not_held_for_good() -> None:
    seen = finished()
    seen.checked = False
    made = record(seen)
    assert made.outcome == "missed"
    assert "did not answer" in made.unknown["held"]
    assert any("not checked" in verdict.text for verdict in made.verdicts)


def test_credentials_are_not_recorded() -> None:
    given = (("Authorization", "Bearer s3cret"), ("Cookie", "s3cret"), ("X-Api-Key", "s3cret"), ("X-A", "b"))
    made = record(finished(), headers=given)
    assert "s3cret" not in msgspec.json.encode(made).decode()
    assert made.request.headers[-1] == ("X-A", "b")


def test_a_server_that_shrank_says_nothing_of_a_connection() -> None:
    seen = finished()
    seen.server_start, seen.server_idle, seen.server_last = use(2000, 1.0), use(1000, 1.0), use(1000, 1.0)
    seen.measured_at = 1009
    made = record(seen)
    assert made.server is not None
    assert made.server.bytes_per_connection is None
    assert "shrank" in made.unknown["server.bytes_per_connection"]
