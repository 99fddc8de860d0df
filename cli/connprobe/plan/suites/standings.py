"""From bouts to the tables: medians over the rounds, their spread, and ratios to the control. Pure.

A ratio is of two bouts of one round, which followed each other closely; the median is that of the ratios,
not the ratio of the medians. Bouts in which a connection failed are left out: their means are of fewer and
luckier connections.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from connprobe.model.bout import Bout, Figure, Spread, Standing
from connprobe.model.suite import Suite, serves

Get = Callable[[Bout], float | None]
FIGURES: Mapping[str, Get] = {
    "handshake_mean_ms": lambda it: it.handshake_ms.mean if it.handshake_ms else None,
    "handshake_p99_ms": lambda it: it.handshake_ms.p99 if it.handshake_ms else None,
    "message_mean_ms": lambda it: it.message_ms.mean if it.message_ms else None,
    "message_p99_ms": lambda it: it.message_ms.p99 if it.message_ms else None,
    "total_s": lambda it: it.total_s,
    "start_rss_bytes": lambda it: it.server.start_rss_bytes if it.server else None,
    "peak_rss_bytes": lambda it: it.server.peak_rss_bytes if it.server else None,
    "end_pss_bytes": lambda it: it.server_pss_bytes,
    "cpu_s": lambda it: it.server.cpu_s if it.server else None,
    "client_cpu_s": lambda it: it.client_cpu_s,
    "overflows": lambda it: it.overflows,
}


def standings(suite: Suite, bouts: Sequence[Bout]) -> tuple[Standing, ...]:
    """By workload, size and contestant in the suite's order; of what was never tried there is none."""
    found = []
    for workload in suite.workloads:
        mine = [it for it in bouts if it.workload == workload.name]
        contestants = [it for it in suite.contestants if serves(it, workload)]
        control = next((it.name for it in contestants if it.control), None)
        for size in sorted({it.size for it in mine}):
            at_size = [it for it in mine if it.size == size]
            by_round = {it.round: it for it in at_size if it.contestant == control and it.outcome == "done"}
            for contestant in contestants:
                tried = [it for it in at_size if it.contestant == contestant.name]
                done = [it for it in tried if it.outcome == "done"]
                if tried:
                    found.append(
                        Standing(
                            workload=workload.name,
                            size=size,
                            contestant=contestant.name,
                            control=contestant.name == control,
                            done=len(done),
                            bouts=len(tried),
                            figures={name: _figure(done, by_round, get) for name, get in FIGURES.items()},
                        )
                    )
    return tuple(found)


def _figure(done: Sequence[Bout], controls: Mapping[int, Bout], get: Get) -> Figure:
    values = [value for it in done if (value := get(it)) is not None]
    return Figure(values=spread(values), ratios=spread(list(_ratios(done, controls, get))))


def _ratios(done: Sequence[Bout], controls: Mapping[int, Bout], get: Get) -> Iterator[float]:
    for bout in done:
        control = controls.get(bout.round)
        mine, theirs = get(bout), get(control) if control is not None else None
        if mine is not None and theirs:
            yield mine / theirs


def spread(values: Sequence[float]) -> Spread | None:
    """None: there are no values."""
    if not values:
        return None
    return Spread(median=median(values), low=min(values), high=max(values), count=len(values))
