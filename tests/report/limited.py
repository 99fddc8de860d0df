"""What `connprobe limit` leaves: two trials on a server that grows by 4,733 bytes a connection."""

from typing import Any

from msgspec.structs import replace

from connprobe.model import RunRecord, Sample
from connprobe.model.kernel import Distribution, KernelSample, QueueSample
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
from connprobe.model.sample import Phase
from connprobe.plan.limits.headline import headline
from made import a_limit
from report.conftest import a_sample, a_server

HEAP_EACH, RSS_EACH = 4733.0, 10_000.0


def limit(resource: str, connections: int, low: int, high: int, **more: Any) -> Limit:
    given = {"scope": "server (pid 4711)", "fix": "raise it", "source": "/proc/PID/limits"}
    return a_limit(resource, connections, low, high, **(given | more))


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
        "pss_bytes": 31e6 + RSS_EACH * connections + off * 300_000,
        "uss_bytes": 29e6 + RSS_EACH * connections + off * 300_000,
        "heap_bytes": 3.66e6 + HEAP_EACH * connections + off * 60_000,
        "kernel_bytes": 7300.0 * connections + off * 200_000,
        "fds": 23.0 + connections,
        "threads": 11.0,
    }
    return Reading(stage=stage, at_s=at_s, connections=connections, settled=settled, use=use, processes=1)


def _growth(metric: str, base: float, each: float, spread: float, **more: Any) -> Growth:
    given: dict[str, Any] = {
        "metric": metric,
        "unit": "bytes" if metric.endswith("_bytes") else "count",
        "base": base,
        "base_low": base - 2500 * spread,
        "base_high": base + 2500 * spread,
        "per_connection": each,
        "low": each - spread,
        "high": each + spread,
        "residual": 2000 * spread,
        "readings": 6,
        "first": 0,
        "last": 4000,
    }
    return Growth(**(given | more))


def verified(number: int) -> Verified:
    return Verified(
        connections=16_851 + number,
        resource="heap",
        cause="the server died: SIGABRT",
        side="server",
        predicted=16_951,
        error=(16_951 - 16_851 - number) / (16_851 + number),
        inside=True,
    )


def trial(number: int) -> Trial:
    wobble = (0.3, -1.1, 0.8, -0.4, 1.2, -0.7)
    readings = [_reading("start", 3.0, 0, wobble[0] * number)]
    for step in range(1, 6):
        readings.append(_reading("ramp", 4.0 * step, 800 * step, wobble[step] * number, settled=step != 2))
    later: tuple[tuple[float, Stage], ...] = ((23.0, "peak"), (33.0, "idle"), (37.0, "messaging"))
    for at_s, stage in later:
        readings.append(_reading(stage, at_s, 4000, wobble[number % 6]))
    readings.append(_reading("drain", 43.0, 0, 8.0))
    heap = {"steps": (Step(connections=2048, size=65_536.0),), "shape": "stepped"}
    off = 13.0 * number
    return Trial(
        number=number,
        readings=tuple(readings),
        growth=(
            _growth("rss_bytes", 42e6, RSS_EACH + off, 180.0, shape="bent", curvature=-0.07, outliers=1),
            _growth("pss_bytes", 31e6, RSS_EACH + off, 190.0),
            _growth("uss_bytes", 29e6, RSS_EACH + off, 190.0),
            _growth("heap_bytes", 3.66e6, HEAP_EACH + off / 10, 31.0, **(heap if number == 1 else {})),
            _growth("kernel_bytes", 0.0, 7300.0 - off, 90.0),
            _growth("fds", 23.0, 1.0, 0.0),
            _growth("threads", 11.0, 0.0, 0.0, shape="flat"),
        ),
        limits=LIMITS,
        held=4000,
        message_ms=Distribution(count=4000, mean=3.4, p50=3.1, p90=5.3, p99=7.9, max=23.9 + number),
        messages=4000,
        message_cpu_s=0.31 + number / 100,
        messaging_s=1.7,
        idle_cpu_share=0.0043,
        verified=verified(number),
        unsettled=("ramp",) if number == 2 else (),
    )


def _mean(value: float, share: float = 0.01) -> Interval:
    return Interval(mean=value, low=value * (1 - share), high=value * (1 + share), count=2)


def _stage(stage: Stage, connections: int, rss: float, cpu: float = 0.11) -> StageFigures:
    each = {
        "rss_bytes": rss - 42e6,
        "heap_bytes": HEAP_EACH * connections,
        "kernel_bytes": 7300.0 * connections,
    }
    return StageFigures(
        stage=stage,
        connections=_mean(connections, 0.0),
        use={
            "rss_bytes": _mean(rss),
            "heap_bytes": _mean(3.66e6 + HEAP_EACH * connections, 0.003),
            "kernel_bytes": _mean(7300.0 * connections, 0.02),
        },
        bytes_per_connection={name: _mean(size / connections, 0.013) for name, size in each.items()}
        if connections
        else {},
        cpu_share=_mean(cpu, 0.07),
    )


STAGES = (
    _stage("start", 0, 42e6, 0.002),
    *(_stage("ramp", 800 * step, 42e6 + 8.2e6 * step) for step in range(1, 6)),
    _stage("peak", 4000, 83e6),
    _stage("idle", 4000, 82e6, 0.0043),
    _stage("messaging", 4000, 85e6, 0.19),
    _stage("drain", 0, 51e6, 0.003),
)


def limit_samples(trials: int) -> list[Sample]:
    """A reading a second; the clock goes on from one trial to the next."""
    made: list[Sample] = []
    step_of: list[tuple[Phase, int]] = [("ramp", 3), ("settle", 3)]
    phases: list[tuple[Phase, int]] = [("start", 3), *step_of * 5]
    phases += [("peak", 4), ("idle", 8), ("messaging", 6), ("drain", 6), ("verify", 14)]
    cpu_s = 0.0
    for number in range(trials):
        held = 0.0
        for phase, seconds in phases:
            step = {"ramp": 800 / 3, "drain": -4000 / 6, "verify": 16_851 / 14}.get(phase, 0.0)
            for _ in range(seconds):
                held = max(0.0, held + step)
                cpu_s += 0.6 if step > 0 else 0.2 if phase == "messaging" else 0.01
                rss = round(42e6 + RSS_EACH * held + (9e6 if phase == "drain" else 0))
                queue = QueueSample(
                    address="127.0.0.1:8080",
                    sockets=1,
                    depth=0,
                    depth_max=round(max(step, 0.0) / 9),
                    capacity_each=512,
                    overflows=0,
                )
                made.append(
                    a_sample(
                        float(len(made)),
                        phase=phase,
                        held=round(held),
                        rate_per_s=max(step, 0.0),
                        memory_available_bytes=16_300_000_000 - rss - round(7300 * held),
                        server=a_server(pids=(101 + number,), rss_bytes=rss, cpu_s=cpu_s),
                        kernel=KernelSample(
                            queues=(queue,),
                            slab_bytes=10**8 + round(7300 * held),
                            softirq=0.1 if step else 0.01,
                        ),
                    )
                )
    return made


def limited(record: RunRecord, **changes: Any) -> RunRecord:
    """`record` as `limit` would have left it."""
    given: dict[str, Any] = {
        "command": "limit",
        "headline": headline(LIMITS, 4000),
        "requested": 4000,
        "held": 4000,
        "limits": LIMITS,
        "trials": (trial(1), trial(2)),
        "stages": STAGES,
        "limit_request": LimitRequest(command=("node", "server.js", "8080"), repeat=2, verify=True),
        "verified": verified(0),
    }
    return replace(record, **(given | changes))
