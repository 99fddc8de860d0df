"""What `connprobe limit` leaves: two trials on a server that grows by 4,733 bytes a connection."""

from typing import Any

from msgspec.structs import replace

from connprobe.model import RunRecord
from connprobe.model.limits import (
    Growth,
    Interval,
    Limit,
    Reading,
    Stage,
    StageFigures,
    Step,
    Trial,
    Verified,
)
from connprobe.model.request import LimitRequest

HEAP_EACH, RSS_EACH = 4733.0, 10_000.0


def limit(resource: str, connections: int, low: int, high: int, **more: Any) -> Limit:
    given: dict[str, Any] = {
        "resource": resource,
        "scope": "server (pid 4711)",
        "capacity": 20_000.0,
        "per_connection": 1.0,
        "connections": connections,
        "low": low,
        "high": high,
        "fix": "raise it",
        "source": "/proc/PID/limits",
    }
    return Limit(**(given | more))


LIMITS = (
    limit(
        "heap",
        16_951,
        16_300,
        17_500,
        capacity=83_886_080.0,
        per_connection=HEAP_EACH,
        unit="bytes",
        used=3_660_000.0,
        fix="node --max-old-space-size=160",
        source="the inspector",
    ),
    limit("nofile", 19_970, 19_970, 19_970, used=30.0, fix="LimitNOFILE=400000"),
    limit("source_ports", 28_232, 28_232, 28_232, scope="client", fix="--source-ports 1024-65535"),
    limit("accept_queue", 409_600, 200_000, 800_000, approximate=True, note="bursts only"),
    limit(
        "memory",
        1_310_000,
        900_000,
        1_900_000,
        scope="host",
        unit="bytes",
        capacity=24e9,
        per_connection=18_000.0,
        beyond=327.5,
        fix="more memory",
    ),
    limit("epoll_watches", 5_200_000, 5_200_000, 5_200_000, scope="uid 0"),
    limit("file_max", 9_223_372_036_854_775_807, 9_000_000_000_000, 9_223_372_036_854_775_807, scope="host"),
)


def _reading(stage: Stage, at_s: float, connections: int, off: float, settled: bool = True) -> Reading:
    use = {
        "rss_bytes": 42e6 + RSS_EACH * connections + off * 300_000,
        "heap_bytes": 3.66e6 + HEAP_EACH * connections + off * 60_000,
        "kernel_bytes": 7300.0 * connections + off * 200_000,
        "fds": 23.0 + connections,
    }
    return Reading(stage=stage, at_s=at_s, connections=connections, settled=settled, use=use, processes=1)


def _growth(metric: str, base: float, each: float, spread: float) -> Growth:
    return Growth(
        metric=metric,
        unit="bytes",
        base=base,
        base_low=base - 2500 * spread,
        base_high=base + 2500 * spread,
        per_connection=each,
        low=each - spread,
        high=each + spread,
        residual=2000 * spread,
        readings=6,
        first=0,
        last=4000,
        curvature=0.02,
        steps=(Step(connections=2048, size=65_536.0),) if metric == "heap_bytes" else (),
        shape="stepped" if metric == "heap_bytes" else "straight",
    )


def trial(number: int) -> Trial:
    wobble = (0.3, -1.1, 0.8, -0.4, 1.2, -0.7)
    readings = [_reading("start", 3.0, 0, wobble[0] * number)]
    for step in range(1, 6):
        readings.append(_reading("ramp", 4.0 * step, 800 * step, wobble[step] * number, settled=step != 2))
    return Trial(
        number=number,
        readings=tuple(readings),
        growth=(
            _growth("rss_bytes", 42e6, RSS_EACH, 180.0),
            _growth("heap_bytes", 3.66e6, HEAP_EACH, 31.0),
            _growth("kernel_bytes", 0.0, 7300.0, 90.0),
        ),
        limits=LIMITS,
        held=4000,
    )


def _stage(stage: Stage, connections: float, rss: float) -> StageFigures:
    def mean(value: float) -> Interval:
        return Interval(mean=value, low=value * 0.99, high=value * 1.01, count=2)

    return StageFigures(
        stage=stage,
        connections=mean(connections),
        use={"rss_bytes": mean(rss), "heap_bytes": mean(rss / 3)},
        bytes_per_connection={"rss_bytes": mean((rss - 42e6) / connections)} if connections else {},
        cpu_share=Interval(mean=0.11, low=None, high=None, count=1),
    )


def limited(record: RunRecord, **changes: Any) -> RunRecord:
    """`record` as `limit` would have left it."""
    given: dict[str, Any] = {
        "command": "limit",
        "headline": "This server stops at about 16,951 connections (16,300 to 17,500): the V8 heap, 80 MB. "
        "Next: file descriptors at 19,970.",
        "requested": 4000,
        "held": 4000,
        "limits": LIMITS,
        "trials": (trial(1), trial(2)),
        "stages": (
            _stage("start", 0, 42e6),
            _stage("peak", 4000, 83e6),
            _stage("idle", 4000, 82e6),
            _stage("messaging", 4000, 85e6),
        ),
        "limit_request": LimitRequest(command=("node", "server.js", "8080"), repeat=2),
        "verified": Verified(
            connections=16_851,
            resource="heap",
            cause="the server died: SIGABRT",
            side="server",
            predicted=16_951,
            error=0.0059,
            inside=True,
        ),
    }
    return replace(record, **(given | changes))
