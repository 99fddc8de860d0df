"""The article's table, taken again: a Node server that keeps 4,000 requests and responses, ten times.

python benchmarks/article.py [--repeat 10] [--count 4000] [--write]
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))

from benchmarks.articletable import SHAPES, table
from benchmarks.limits import NOTES, ROOT, machine_cpu_s, own_cpu_s, versions
from benchmarks.limits import limit as run_limit
from benchmarks.limittable import BUSY

from benchmarks import ending, processes
from connprobe.model import RunRecord

HEAP_LIMIT = "1.7GB"
A_TRIAL_S = 120.0


def measure(asked: argparse.Namespace, shape: str) -> RunRecord:
    command = [sys.executable, "-m", "connprobe", "limit", "--json", "--results", str(asked.results)]
    command += ["--server", f"node-{shape}", "--count", str(asked.count), "--repeat", str(asked.repeat)]
    print(shlex.join(command[1:]), file=sys.stderr, flush=True)
    return run_limit([*command, "--heap-limit", HEAP_LIMIT], A_TRIAL_S * asked.repeat)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--results", type=Path, default=ROOT / "results/article", metavar="DIR")
    parser.add_argument("--write", action="store_true", help=f"put the table into benchmarks/{NOTES.name}")
    return parser.parse_args(words)


def main() -> int:
    asked = arguments()
    asked.results.mkdir(parents=True, exist_ok=True)
    began, busy, own = time.monotonic(), machine_cpu_s(), own_cpu_s()
    records = {shape: measure(asked, shape) for shape in SHAPES}
    command = shlex.join(["python", "benchmarks/article.py", *sys.argv[1:]])
    others = ((machine_cpu_s() - busy) - (own_cpu_s() - own)) / (time.monotonic() - began)
    block = f"{processes.machine()} {versions()}.\n\n    {command}\n\n{table(records)}"
    if others > BUSY:
        block += f"\n- Other work ran beside it: it took {others:.1f} CPUs, which lengthens the messaging."
    ending.publish(block, NOTES, write=asked.write, name="article")
    return 1 if any(record.outcome != "done" for record in records.values()) else 0


if __name__ == "__main__":
    ending.run(main)
