"""The classic table, over all trials: what was in use at each stage, and what that makes for a connection."""

from collections.abc import Callable, Sequence

from connprobe.model import Interval, Reading, Stage, StageFigures, Trial
from connprobe.plan.limits.interval import interval
from connprobe.plan.limits.prediction import unit_of

PAGE = 4096
OF_PAGES = frozenset({"rss_bytes", "pss_bytes", "uss_bytes", "cgroup_bytes", "memory_bytes"})
TICK_S = 0.01  # in which the kernel tells a process's CPU (USER_HZ)
SHORTEST_S = 20 * TICK_S  # of a stage whose CPU share is told: one tick more or less is 5 %
STAGES: tuple[Stage, ...] = ("start", "ramp", "peak", "idle", "messaging", "drain")


def stage_figures(trials: Sequence[Trial]) -> tuple[StageFigures, ...]:
    """A row for each stage that a trial came to; a ramp has one for each step."""
    rows = []
    for stage in STAGES:
        of_trials = [[each for each in trial.readings if each.stage == stage] for trial in trials]
        for step in range(max(map(len, of_trials), default=0)):
            rows.append(_row(stage, step, trials, of_trials))
    return tuple(rows)


def _row(
    stage: Stage, step: int, trials: Sequence[Trial], of_trials: Sequence[Sequence[Reading]]
) -> StageFigures:
    found = [(trial, own[step]) for trial, own in zip(trials, of_trials, strict=True) if step < len(own)]
    metrics = sorted({metric for _, reading in found for metric in reading.use})
    each = {}
    for metric in metrics if stage not in ("start", "drain") else ():
        if unit_of(metric) == "bytes":
            grown = _over(
                [_per_connection(trial, reading, metric) for trial, reading in found],
                least=_rounding(metric) / max(1, min(reading.connections for _, reading in found)),
            )
            if grown is not None:
                each[metric] = grown
    return StageFigures(
        stage=stage,
        connections=_known(interval([reading.connections for _, reading in found])),
        use={
            metric: _known(
                interval([one.use[metric] for _, one in found if metric in one.use], least=_rounding(metric))
            )
            for metric in metrics
        },
        bytes_per_connection=each,
        cpu_share=_over(
            [_CPU[stage](trial) for trial, _ in found], least=_tick_share(stage, [it for it, _ in found])
        )
        if stage in _CPU
        else None,
    )


def _per_connection(trial: Trial, reading: Reading, metric: str) -> float | None:
    start = next((each for each in trial.readings if each.stage == "start"), None)
    if start is None or metric not in start.use or metric not in reading.use or not reading.connections:
        return None
    return (reading.use[metric] - start.use[metric]) / reading.connections


def _messaging(trial: Trial) -> float | None:
    if trial.message_cpu_s is None or trial.messaging_s is None or trial.messaging_s < SHORTEST_S:
        return None
    return trial.message_cpu_s / trial.messaging_s


_CPU: dict[str, Callable[[Trial], float | None]] = {
    "idle": lambda trial: trial.idle_cpu_share,
    "messaging": _messaging,
}


def _rounding(metric: str) -> float:
    return PAGE if metric in OF_PAGES else 0.0


def _tick_share(stage: Stage, trials: Sequence[Trial]) -> float:
    """A tick, as a share of the stage; how long an idle stage was is not told here: of the shortest."""
    took = [trial.messaging_s for trial in trials if stage == "messaging" and trial.messaging_s]
    return TICK_S / max(SHORTEST_S, min(took, default=1.0))


def _over(values: Sequence[float | None], *, least: float) -> Interval | None:
    return interval([value for value in values if value is not None], least=least)


def _known(found: Interval | None) -> Interval:
    assert found is not None
    return found
