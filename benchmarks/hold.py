"""Measures connprobe against the floor: a C client and a C server that do the least that will do.

    python benchmarks/hold.py [--sizes 19000,400000] [--rounds 3] [--only NAME] [--write]

Rounds are interleaved, and ratios are taken within a round, because the machine drifts between them.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property, partial, wraps
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import (
    PAIRS,
    Ramp,
    Row,
    changed,
    marginal_bytes,
    memory_taken_bytes,
    ramp_rows,
    table,
)

from benchmarks import ending, processes

README = Path(__file__).with_name("README.md")

SMALL = 100_000  # below this a ramp takes less than a second
SMALL_REPEATS, REPEATS = 5, 3  # within a round
# Measured at the smallest size also beside the largest one's server; the C client as it is there, too.
SPREAD = ("floor", "client", "hold")
MARGINAL_WORKERS = 8
MARGINAL_SIZES = (40_000, 150_000)

OTHERS_SOCKETS = 200  # of whatever else runs on this machine


class Bench:
    """What every measurement needs: where runs land, and what was asked."""

    def __init__(self, asked: argparse.Namespace, results: Path) -> None:
        self.sizes: list[int] = asked.sizes
        self.rounds: int = asked.rounds
        self.concurrency: int = asked.concurrency
        self.results = results

    @cached_property
    def base(self) -> int:
        """TIME_WAIT of whatever ran before passes, or as many could be left of these runs unseen."""
        return processes.settle(0, OTHERS_SOCKETS)

    def ramp(self, pair: str, count: int, room: int = 0) -> Ramp:
        """room: as many server processes and C clients as that many connections take; 0: `count`."""
        with processes.server("connprobe" if pair == "serve" else "floor", room or count) as port:
            if pair in ("client", "hold"):
                more = ("--no-bpf",) if pair == "client" else ()
                ramp = processes.connprobe_client(port, count, self.concurrency, self.results, *more)
            else:
                ramp = processes.floor_client(port, count, self.concurrency, room)
        self.say(
            f"{pair:6} {count:>9,} in {ramp.ramp_s:7.3f} s = {ramp.per_s:,.0f}/s, {ramp.workers} workers"
        )
        processes.settle(0, OTHERS_SOCKETS)
        return ramp

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def repeats(size: int) -> int:
    """Within a round."""
    return SMALL_REPEATS if size < SMALL else REPEATS


def by_itself(measure: Callable[[Bench], list[Row]]) -> Callable[[Bench], list[Row]]:
    """In a network of its own, so that no run waits for TIME_WAIT of the one before."""

    @wraps(measure)
    def within(bench: Bench) -> list[Row]:
        with processes.network_of_its_own():
            return measure(bench)

    return within


@by_itself
def ramps(bench: Bench) -> list[Row]:
    """Rates and memory of both clients and both servers at every size, and how cost grows with size."""
    bench.ramp("floor", max(bench.sizes))  # uncounted: the first run faults in the memory of a fresh machine
    pairs, smallest, largest = list(PAIRS), min(bench.sizes), max(bench.sizes)
    differ = processes.shares(smallest) < processes.shares(largest)
    spread: dict[str, list[list[Ramp]]] = {pair: [] for pair in SPREAD if differ}
    seen: dict[tuple[str, int], list[list[Ramp]]] = {
        (pair, size): [] for pair in PAIRS for size in bench.sizes
    }
    for turn in range(bench.rounds):
        for size in bench.sizes:
            for pair in PAIRS:
                seen[pair, size].append([])
            for repeat in range(repeats(size)):
                first = (turn + repeat) % len(PAIRS)  # nobody always runs first
                for pair in pairs[first:] + pairs[:first]:
                    seen[pair, size][turn].append(bench.ramp(pair, size))
        for turns in spread.values():
            turns.append([])
        for repeat in range(repeats(smallest) if spread else 0):
            first = (turn + repeat) % len(SPREAD)
            for pair in SPREAD[first:] + SPREAD[:first]:
                spread[pair][turn].append(bench.ramp(pair, smallest, room=largest))
    return ramp_rows(seen, bench.sizes, spread)


@by_itself
def marginal(bench: Bench) -> list[Row]:
    """What one more connection costs a worker that is there anyway."""
    slopes = []
    for _ in range(bench.rounds):
        held = []
        for count in MARGINAL_SIZES:
            with processes.server("floor", count) as port:
                held.append(
                    processes.connprobe_client(
                        port, count, bench.concurrency, bench.results, "--workers", str(MARGINAL_WORKERS)
                    )
                )
            processes.settle(0, OTHERS_SOCKETS)
        slopes.append(marginal_bytes(*held))
        bench.say(f"marginal {slopes[-1]:.1f} B a connection")
    low, high = MARGINAL_SIZES
    what = f"PSS of one more connection, {MARGINAL_WORKERS} workers, {low:,} to {high:,}"
    return [Row(what, tuple(slopes), "B", 1, most=20)]


def embedded(bench: Bench, count: int, hold_s: int) -> dict[str, float]:
    """One run with the embedded server, whatever it held."""
    with tempfile.TemporaryDirectory(dir=bench.results) as name:
        run = json.loads(processes.connprobe_hold(Path(name), count, hold_s, "--fail-under", "0"))
        (samples,) = Path(name).rglob("samples.jsonl")
        with samples.open() as lines:
            run["memory_taken_bytes"] = memory_taken_bytes(lines)
    return {
        "held": run["held"],
        "dropped": run["dropped"],
        "ramp_s": run["ramp_s"],
        "pss": run["client"]["pss_bytes_per_connection"],
        "memory_gb": run["memory_taken_bytes"] / 1e9,
    }


def million(bench: Bench) -> list[Row]:
    """1,000,000 connections, both ends on this machine."""
    count, base = 1_000_000, bench.base
    run = embedded(bench, count, 10)
    processes.settle(base)
    return [
        Row("1,000,000 with the embedded server: held", (run["held"],), least=count),
        Row("1,000,000: dropped", (run["dropped"],), most=0),
        Row("1,000,000: ramp", (run["ramp_s"],), "s", 1),
        Row("1,000,000: PSS per connection, whole command", (run["pss"],), "B", 1),
        Row(
            "1,000,000: fall of MemAvailable",
            (run["memory_gb"],),
            "GB",
            2,
            note="both ends, kernel and processes",
        ),
    ]


def restore(bench: Bench) -> list[Row]:
    """400,000 for a minute, and whether anything is left of it."""
    count, base = 400_000, bench.base
    before = processes.settings()
    run = embedded(bench, count, 60)
    left = processes.settle(base, OTHERS_SOCKETS)
    differing = changed(before, processes.settings())
    if differing:
        bench.say(f"changed: {', '.join(differing)}")
    return [
        Row("400,000 for 60 s with the embedded server: held", (run["held"],), least=count),
        Row("400,000 for 60 s: dropped", (run["dropped"],), most=0),
        Row("afterwards: sysctls of net and fs, and addresses, that differ", (len(differing),), most=0),
        Row(
            "afterwards: TCP sockets more than before, TIME_WAIT included",
            (left,),
            most=OTHERS_SOCKETS,
        ),
    ]


MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "ramps": ramps,
    "marginal": marginal,
    "million": million,
    "restore": restore,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    def sizes(text: str) -> list[int]:
        return [int(size) for size in text.split(",")]

    parser.add_argument("--sizes", type=sizes, default=[19_000, 400_000], help="connections of the ramps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--concurrency", type=int, default=1000, help="handshakes in flight, of either client"
    )
    parser.add_argument("--only", choices=MEASUREMENTS)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    processes.build_floor()
    rows = ending.measured(MEASUREMENTS, asked.only, partial(Bench, asked))
    command = shlex.join(["python", "benchmarks/hold.py", *sys.argv[1:]])
    block = f"{processes.machine()}\n\n    {command}\n\n"
    block += f"{asked.concurrency} handshakes in flight, over all workers, of either client.\n\n{table(rows)}"
    ending.publish(block, README, write=asked.write)
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    ending.run(main)
