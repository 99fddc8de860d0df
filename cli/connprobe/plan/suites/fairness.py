"""What makes the tables of a comparison worth less than they look, each with its figures. Pure."""

from collections.abc import Iterator, Sequence

from connprobe.model.bout import Bout, Standing
from connprobe.model.run import Verdict

OTHERS_CPUS = 0.1  # of one CPU, kept busy by others
CLIENT_CPUS = 0.5  # of one CPU, taken by the client


def fairness(bouts: Sequence[Bout], standings: Sequence[Standing]) -> Iterator[Verdict]:
    """In the order of their weight."""
    not_done = [it for it in bouts if it.outcome != "done"]
    if not_done:
        yield Verdict(
            level="bad",
            text=f"{len(not_done)} of {len(bouts)} runs did not end as they had to: they are in no figure.",
            fix="the log of the server and run.json are in the directory of the run",
        )
    yield from _others(bouts)
    yield from _client(standings)
    for key in dict.fromkeys((it.workload, it.size) for it in standings):
        there = [it for it in standings if (it.workload, it.size) == key]
        if len(there) > 1 and not any(it.control and it.done for it in there):
            yield Verdict(
                level="note",
                text=f"{key[0]} {key[1]:,}: no ratios, as there is no run of a control.",
            )
    for it in standings:
        overflows = it.figures["overflows"].values
        if overflows is not None and overflows.high:
            yield Verdict(
                level="warning",
                text=f"{it.workload} {it.size:,} {it.contestant}: its accept queue may have overflowed, at "
                f"most {overflows.high:,.0f} times in a run; who is turned away waits for a second or more.",
                fix="a larger backlog of the server, and net.core.somaxconn",
            )


def _others(bouts: Sequence[Bout]) -> Iterator[Verdict]:
    known = [it for it in bouts if it.others is not None]
    busy = [it for it in known if it.others is not None and it.others.cpus > OTHERS_CPUS]
    if not busy:
        return
    worst = max(busy, key=lambda it: it.others.cpus if it.others else 0.0)
    assert worst.others is not None
    who = ", ".join(worst.others.who) or "processes that may not be read"
    yield Verdict(
        level="warning",
        text=f"Others used the CPU in {len(busy)} of {len(known)} runs. Most of all in {worst.workload} "
        f"{worst.size:,} {worst.contestant}, round {worst.round}: {worst.others.cpus:.2f} CPUs ({who}). "
        "Figures of a busy machine are of that machine, and rounds spread the more.",
        fix="repeat it on a machine that does nothing else",
    )


def _client(standings: Sequence[Standing]) -> Iterator[Verdict]:
    """Of CPU seconds and total time, medians both."""
    shares = []
    for it in standings:
        cpu, total = it.figures["client_cpu_s"].values, it.figures["total_s"].values
        if cpu is not None and total is not None and total.median > 0:
            shares.append((cpu.median / total.median, it))
    busy = [share for share, _ in shares if share > CLIENT_CPUS]
    if not busy:
        return
    most, worst = max(shares, key=lambda pair: pair[0])
    yield Verdict(
        level="warning",
        text=f"The client took more than half of a CPU in {len(busy)} of {len(shares)} rows, up to "
        f"{most:.2f} in {worst.workload} {worst.size:,} {worst.contestant}: on this machine it "
        "competes with the servers, and may be the limit of the fastest.",
        fix="a machine with more CPUs: ratios near 1 may be the client's",
    )
