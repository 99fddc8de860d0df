"""Records as a run leaves them, for the tests of what a person sees."""

from collections.abc import Callable
from typing import Any

import pytest

from connprobe.model import (
    SCHEMA,
    ClientFigures,
    Distribution,
    HoldPlan,
    HoldRequest,
    HostRecord,
    ObserverFigures,
    RunRecord,
    Sample,
    ServerFigures,
    ServerUse,
    Shard,
    SourceShare,
    Target,
)

PLAN = HoldPlan(
    target=Target(host="127.0.0.1", address="127.0.0.1", port=8080, family="ipv4"),
    count=400_000,
    nofile=20_000,
    workers=21,
    server_processes=0,
    source_addresses=8,
    ports_per_source=64_512,
    source_ports=(1024, 65535),
    memory_bytes=2_950_000_000,
    alias_interface=None,
    alias_addresses=(),
    shards=(
        Shard(
            index=0,
            count=19_048,
            sources=(SourceShare(address="127.0.0.3", count=9), SourceShare(address="127.0.0.2", count=5)),
        ),
        Shard(index=1, count=19_047, sources=(SourceShare(address="127.0.0.4", count=19_047),)),
    ),
    notes=("loopback needs no alias",),
)


def a_record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "connprobe": "0.1.0",
        "command": "hold",
        "outcome": "done",
        "started_at": "2026-01-02T03:04:05Z",
        "target": "127.0.0.1:8080",
        "request": HoldRequest(target="127.0.0.1:8080", count=400_000),
        "requested": 400_000,
        "held": 400_000,
        "failed": 0,
        "failures": {},
        "dropped": 0,
        "drops": {},
        "not_attempted": 0,
        "failure_details": {},
        "drop_details": {},
        "ramp_s": 44.9,
        "hold_s": 60.0,
        "connections_per_s": 8911.2,
        "handshake_ms": Distribution(count=400_000, mean=2.11, p50=1.23, p90=4.5, p99=12.1, max=340.2),
        "reconnects": None,
        "pings": None,
        "client": ClientFigures(
            workers=21,
            pss_bytes=37_100_000,
            pss_bytes_per_connection=92.7,
            workers_pss_bytes_per_connection=60.1,
            cpu_s=14.2,
        ),
        "server": ServerFigures(
            pids=(101, 103),
            start_rss_bytes=50_000_000,
            peak_rss_bytes=1_360_000_000,
            idle_rss_bytes=1_350_000_000,
            messaging_rss_bytes=None,
            cpu_s=17.3,
            bytes_per_connection=3250.4,
            threads=2,
            fds=400_060,
            complete=True,
        ),
        "runtime": None,
        "kernel": None,
        "listeners": (),
        "limits": (),
        "verified": None,
        "observer": ObserverFigures(cpu_s=1.2, pss_bytes=45_000_000, samples=107, late_samples=3),
        "host": HostRecord(
            kernel="6.18", cpus=2, memory_total_bytes=24_000_000_000, nofile=20_000, python="3.11"
        ),
        "plan": PLAN,
        "verdicts": (),
        "unknown": {"runtime": "no inspector"},
    }
    return RunRecord(**(fields | changes))


def a_sample(at_s: float, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "at_s": at_s,
        "lateness_s": 0.0,
        "phase": "ramp",
        "started": 12_400,
        "established": 12_345,
        "held": 12_345,
        "in_flight": 55,
        "failures": {},
        "drops": {},
        "rate_per_s": 8911.0,
        "handshake_p50_ms": 1.23,
        "handshake_p99_ms": 12.1,
        "memory_available_bytes": 16_300_000_000,
        "server": None,
    }
    return Sample(**(fields | changes))


def a_server(**changes: Any) -> ServerUse:
    fields: dict[str, Any] = {
        "pids": (101, 103),
        "rss_bytes": 1_200_000_000,
        "pss_bytes": None,
        "cpu_s": 1.0,
        "fds": 12_407,
        "threads": 2,
        "complete": True,
    }
    return ServerUse(**(fields | changes))


@pytest.fixture
def make_record() -> Callable[..., RunRecord]:
    return a_record


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    return a_sample


@pytest.fixture
def make_server() -> Callable[..., ServerUse]:
    return a_server


@pytest.fixture
def plan() -> HoldPlan:
    return PLAN
