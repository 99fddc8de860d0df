"""The article's comparison of WebSocket proxies, taken again: benchmarks/balancerbattle.md.

python benchmarks/battle.py [--sizes 2000,5000] [--repeats 1] [--of DIR] [--write]
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))

from benchmarks.battletable import beside

from benchmarks import ending, processes
from connprobe.model.bout import CompareRecord
from connprobe.report.standings import markdown

NOTES = processes.ROOT / "benchmarks/balancerbattle.md"
LONGEST_S = 3 * 3600.0


def measure(asked: argparse.Namespace) -> CompareRecord:
    """Exit 4 is a comparison of which some runs are not done: their reasons are in it."""
    command = [sys.executable, "-m", "connprobe", "compare", "balancerbattle", "--json"]
    command += ["--sizes", asked.sizes, "--repeats", str(asked.repeats), "--results", str(asked.results)]
    print(shlex.join(command[1:]), file=sys.stderr, flush=True)
    return msgspec.json.decode(processes.output(command, LONGEST_S, accepted=(0, 4)), type=CompareRecord)


def kept(directory: Path) -> CompareRecord:
    return msgspec.json.decode((directory / "compare.json").read_bytes(), type=CompareRecord)


def block(record: CompareRecord, command: str, machine: str) -> str:
    taken = f"{machine} The runs began at {record.started_at}."
    return f"{taken}\n\n    {command}\n\n{beside(record)}\n\n{markdown(record).rstrip()}"


def then(record: CompareRecord) -> str:
    """The machine of a comparison that was made before: neither commit nor date of now are its own."""
    host = record.host
    return (
        f"{host.cpus} CPUs, {host.memory_total_bytes / 2**30:.0f} GiB, Linux {host.kernel}, "
        f"Python {host.python}, connprobe {record.connprobe}."
    )


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="2000,5000,10000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--of", type=Path, metavar="DIR", help="a comparison that was made before")
    parser.add_argument("--results", type=Path, default=processes.ROOT / "results", metavar="DIR")
    parser.add_argument("--write", action="store_true", help=f"put the tables into benchmarks/{NOTES.name}")
    return parser.parse_args(words)


def main() -> int:
    asked = arguments()
    record = kept(asked.of) if asked.of else measure(asked)
    made_by = ["connprobe", "compare", "balancerbattle"]
    made_by += ["--sizes", ",".join(map(str, record.request.sizes)), "--repeats", str(record.request.repeats)]
    text = block(record, shlex.join(made_by), then(record) if asked.of else processes.machine())
    ending.publish(text, NOTES, write=asked.write, name="balancerbattle")
    return 0 if record.outcome == "done" else 1


if __name__ == "__main__":
    ending.run(main)
