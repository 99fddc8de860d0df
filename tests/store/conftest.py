import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from connprobe.model import (
    SCHEMA,
    ClientFigures,
    HoldPlan,
    HoldRequest,
    HostRecord,
    ObserverFigures,
    RunRecord,
    Sample,
    Shard,
    SourceShare,
    Target,
)

NOBODY = 65534


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 64 kB, unmounted afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs: sudo .venv/bin/pytest")
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=False)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a tmpfs: run with CAP_SYS_ADMIN")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may enter and only we may write to: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="connprobe-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def nobody(public: Path) -> Iterator[Path]:
    """Be another user, without capabilities, to the end of the test: give a directory closed to that user."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user: sudo .venv/bin/pytest")
    (public / "closed").mkdir(mode=0o700)
    os.seteuid(NOBODY)
    yield public
    os.seteuid(0)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    mask: int = request.param
    before = os.umask(mask)
    yield mask
    os.umask(before)


@pytest.fixture
def sample() -> Sample:
    return Sample(
        at_s=1.0,
        lateness_s=0.002,
        phase="ramp",
        started=1009,
        established=1000,
        held=997,
        in_flight=9,
        failures={},
        drops={"reset": 3},
        rate_per_s=1000.5,
        handshake_p50_ms=None,
        handshake_p99_ms=2.5,
        memory_available_bytes=1 << 34,
    )


@pytest.fixture
def plan() -> HoldPlan:
    return HoldPlan(
        target=Target(host="::1", address="::1", port=8080, family="ipv6"),
        count=1009,
        nofile=20_000,
        workers=1,
        server_processes=0,
        source_addresses=1,
        ports_per_source=28_232,
        source_ports=None,
        memory_bytes=1 << 23,
        alias_interface=None,
        alias_addresses=(),
        shards=(Shard(index=0, count=1009, sources=(SourceShare(address="", count=1009),)),),
    )


@pytest.fixture
def record(plan: HoldPlan) -> RunRecord:
    return RunRecord(
        schema=SCHEMA,
        connprobe="0.1.0",
        command="hold",
        outcome="missed",
        started_at="2026-01-02T03:04:05Z",
        target="[::1]:8080",
        request=HoldRequest(target="[::1]:8080", count=1009, headers=(("X-Odd", "\u00fc\n"),)),
        requested=1009,
        held=997,
        failed=0,
        failures={},
        dropped=12,
        drops={"reset": 12},
        not_attempted=0,
        failure_details={},
        drop_details={"reset": {"recv: ECONNRESET": 12}},
        ramp_s=1.5,
        hold_s=2.0,
        connections_per_s=672.6,
        handshake_ms=None,
        reconnects=None,
        pings=None,
        client=ClientFigures(
            workers=1,
            pss_bytes=None,
            pss_bytes_per_connection=None,
            workers_pss_bytes_per_connection=None,
            cpu_s=0.1,
        ),
        server=None,
        runtime=None,
        kernel=None,
        network=None,
        listeners=(),
        limits=(),
        verified=None,
        observer=ObserverFigures(cpu_s=0.1, pss_bytes=None),
        host=HostRecord(kernel="6.1", cpus=2, memory_total_bytes=1 << 34, nofile=20_000, python="3.11"),
        plan=plan,
        verdicts=(),
        unknown={"server": "not on this host"},
    )
