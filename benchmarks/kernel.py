"""Measures what watching the kernel costs: the ramp with all probes and without, and each probe by itself.

    python benchmarks/kernel.py [--rounds 5] [--only NAME] [--write]

Runs of a pair take turns, each first in turn, and ratios are taken within a round.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Row, table

from benchmarks import ending, processes
from connprobe.kernel import bpf, socket_census
from connprobe.kernel.live import Live
from connprobe.kernel.loader import load
from connprobe.session.kernel.probes import all_probes
from connprobe.store.kept import Kept

NOTES = Path(__file__).with_name("kernel.md")
COUNT = 100_000
CENSUS_PAIRS = 400_000
CENSUSES = 5


class Bench:
    def __init__(self, asked: argparse.Namespace, results: Path) -> None:
        self.rounds: int = asked.rounds
        self.count: int = asked.count
        self.pairs: int = asked.pairs
        self.results = results
        self.base = processes.sockets()

    def hold(self, *options: str) -> dict[str, object]:
        record: dict[str, object] = json.loads(
            processes.connprobe_hold(self.results, self.count, 3, *options)
        )
        self.say(f"{' '.join(options) or 'all probes':12} {record['connections_per_s']:,.0f}/s")
        processes.settle(self.base)
        return record

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def ramp(bench: Bench) -> list[Row]:
    """The rate with all probes over that without eBPF, and what the command's own process takes then."""
    bench.hold()  # uncounted: the first run faults in the memory of a fresh machine
    ratios, memory = [], []
    for turn in range(bench.rounds):
        pair = {}
        for options in ((), ("--no-bpf",)) if turn % 2 == 0 else (("--no-bpf",), ()):
            pair[options] = bench.hold(*options)
        ratios.append(
            _number(pair[()], "connections_per_s") / _number(pair["--no-bpf",], "connections_per_s")
        )
        observer = pair[()]["observer"]
        assert isinstance(observer, dict)
        memory.append(observer["pss_bytes"] / 1e6)
    what = f"{bench.count:,} with the embedded server"
    return [
        Row(f"{what}: rate, all probes over --no-bpf", tuple(ratios), digits=3, least=0.97),
        Row(f"{what}: PSS of the command's own process", tuple(memory), "MB", 1, most=60),
    ]


def _number(record: dict[str, object], name: str) -> float:
    value = record[name]
    assert isinstance(value, int | float)
    return value


def attach(bench: Bench) -> list[Row]:
    """From nothing to all probes attached: compiled, and then by what was kept."""
    compiled: list[float] = []
    kept: list[float] = []
    for _ in range(bench.rounds):
        keep = Kept(bench.results / f"kept-{len(compiled)}")
        for took in (compiled, kept):
            began = time.perf_counter()
            with load(all_probes(), keep=keep) as loaded:
                took.append(time.perf_counter() - began)
                refused = [probe for probe in loaded.probes.values() if not isinstance(probe, Live)]
            if refused:
                raise processes.BenchmarkError(f"not attached: {refused}")
        bench.say(f"attached in {compiled[-1]:.2f} s, in {kept[-1]:.2f} s")
    return [
        Row("all probes attached, the first time on a kernel", tuple(compiled), "s", 2, most=2),
        Row("all probes attached, by kept programs", tuple(kept), "s", 2, most=2),
    ]


def cost(bench: Bench) -> list[Row]:
    """Nanoseconds of each program, by the kernel's own statistics, while a ramp goes on."""
    rows = []
    statistics = bpf.enable_statistics()
    try:
        with load(all_probes()) as loaded:
            before = _programs(loaded.probes)
            bench.hold("--no-bpf")
            after = _programs(loaded.probes)
            for (probe, program), (runs, spent) in after.items():
                was_runs, was_spent = before[probe, program]
                if runs > was_runs:
                    each = (spent - was_spent) / (runs - was_runs)
                    note = f"{(runs - was_runs) / bench.count:.1f} a connection"
                    rows.append(Row(f"{probe}: {program}", (each,), "ns", note=note))
            total = sum(spent - before[key][1] for key, (_, spent) in after.items())
            rows.append(Row("all programs, of one connection", (total / bench.count,), "ns"))
    finally:
        os.close(statistics)
    return rows


def _programs(probes: Mapping[str, object]) -> dict[tuple[str, str], tuple[int, int]]:
    """Runs and time by (probes, program): some share one."""
    users: dict[int, list[str]] = {}
    found: dict[int, bpf.ProgramStatistics] = {}
    for name, probe in probes.items():
        if isinstance(probe, Live):
            for number, one in probe.programs_by_id().items():
                users.setdefault(number, []).append(name)
                found[number] = one
    return {
        (", ".join(names), found[number].name): (found[number].run_count, found[number].run_time_ns)
        for number, names in users.items()
    }


def census(bench: Bench) -> list[Row]:
    """A census while 400,000 connections, both ends here, are held by a run that is over its ramp."""
    command = [str(processes.CONNPROBE), "hold", "--count", str(bench.pairs), "--for", "60s", "--no-bpf"]
    held = subprocess.Popen(
        [*command, "--results", str(bench.results)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + processes.patience_s(bench.pairs)
        while processes.sockets() - bench.base < 2 * bench.pairs:
            if held.poll() is not None or time.monotonic() > deadline:
                raise processes.BenchmarkError(f"{' '.join(command)} did not hold them")
            time.sleep(0.25)
        with load([socket_census.probe()]) as loaded:
            probe = loaded["socket_census"]
            if not isinstance(probe, Live):
                raise processes.BenchmarkError(f"no census: {probe.reason}")
            reader = socket_census.SocketCensus(probe)
            taken = [reader.take() for _ in range(CENSUSES)]
    finally:
        processes.end(held)
        processes.settle(bench.base)
    return [
        Row("census: sockets", tuple(float(each.sockets) for each in taken)),
        Row("census: time", tuple(each.duration_s for each in taken), "s", 2, most=1),
    ]


MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "ramp": ramp,
    "attach": attach,
    "cost": cost,
    "census": census,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=COUNT, help="connections of the ramps")
    parser.add_argument("--pairs", type=int, default=CENSUS_PAIRS, help="connections of the census")
    parser.add_argument("--only", choices=MEASUREMENTS)
    parser.add_argument("--write", action="store_true", help=f"put the table into benchmarks/{NOTES.name}")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    rows = ending.measured(MEASUREMENTS, asked.only, partial(Bench, asked))
    command = shlex.join(["python", "benchmarks/kernel.py", *sys.argv[1:]])
    block = f"{processes.machine()}\n\n    {command}\n\n{table(rows)}"
    ending.publish(block, NOTES, write=asked.write)
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    ending.run(main)
