"""`connprobe load` beside a load generator in Node, against the same server: benchmarks/load.md.

    python benchmarks/load.py [--rounds 5] [--count 10000] [--write]

The server is the control of the proxies' comparison: targets/node_ws.js, as a cluster of two processes. Both
clients take turns within a round. The npm package ws is installed, pinned, into a directory of its own.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import replace_block

from benchmarks import processes

NOTES = Path(__file__).with_name("load.md")
SCRIPT = Path(__file__).parent / "wsload" / "load.js"
WS = "ws@8.18.3"
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "connprobe-wsload"
CONCURRENCY = 100
LISTENS_S = 30.0


@dataclass(frozen=True)
class Took:
    """cpu_s: of the client, all its processes."""

    total_s: float
    cpu_s: float


def install() -> None:
    if not (HOME / "node_modules" / "ws" / "package.json").exists():
        HOME.mkdir(parents=True, exist_ok=True)
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(["npm", "install", *options, "--prefix", str(HOME), WS], check=True, timeout=300)


@contextmanager
def control() -> Iterator[int]:
    port = processes.free_port()
    script = processes.ROOT / "targets" / "node_ws.js"
    process = subprocess.Popen(["node", str(script), "127.0.0.1", str(port), "2"], text=True)
    try:
        deadline = time.monotonic() + LISTENS_S
        while not listens(port):
            if time.monotonic() > deadline:
                raise processes.BenchmarkError(f"{script} does not listen")
            time.sleep(0.05)
        yield port
    finally:
        processes.end(process)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def by_node(port: int, count: int) -> Took:
    environment = {**os.environ, "NODE_PATH": str(HOME / "node_modules")}
    command = ["node", str(SCRIPT), str(port), str(count), str(CONCURRENCY)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    said = json.loads(done.stdout)
    if said["wrong"]:
        raise processes.BenchmarkError(f"{said['wrong']} connections of the Node client went wrong")
    return Took(said["total_s"], said["cpu_s"])


def by_connprobe(port: int, count: int, results: Path) -> Took:
    asked = ["--target", f"127.0.0.1:{port}", "--count", str(count), "--concurrency", str(CONCURRENCY)]
    command = [str(processes.CONNPROBE), "load", *asked, "--results", str(results), "--json"]
    record = json.loads(processes.output(command, 600))
    return Took(record["load"]["total_s"], record["client"]["cpu_s"])


def block(rounds: list[tuple[Took, Took]], count: int) -> str:
    ours, theirs = [one for one, _ in rounds], [other for _, other in rounds]
    ratios = [other.total_s / one.total_s for one, other in rounds]
    shares = [one.cpu_s / one.total_s for one in ours]
    lines = [
        processes.machine(),
        "",
        f"| {count:,} connections, {CONCURRENCY} at once, {len(rounds)} rounds "
        "| median | least | most | goal |",
        "|---|---:|---:|---:|---:|",
        row("connprobe load, total", [one.total_s for one in ours], "s"),
        row("Node with ws, total", [one.total_s for one in theirs], "s"),
        row("throughput: connprobe over Node", ratios, "", "at least 2"),
        row("CPU of connprobe, of one core's time", shares, "", "under 0.5"),
        row("CPU of connprobe", [one.cpu_s for one in ours], "s"),
        row("CPU of Node with ws", [one.cpu_s for one in theirs], "s"),
    ]
    return "\n".join(lines)


def row(what: str, values: list[float], unit: str, goal: str = "") -> str:
    middle, least, most = (
        f"{value:.2f} {unit}".strip() for value in (median(values), min(values), max(values))
    )
    return f"| {what} | {middle} | {least} | {most} | {goal} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--write", action="store_true", help=f"put the table into benchmarks/{NOTES.name}")
    asked = parser.parse_args()
    install()
    rounds = []
    with tempfile.TemporaryDirectory() as place, control() as port:
        by_node(port, 1000)  # the server has compiled what it runs most by then
        for number in range(asked.rounds):
            results = Path(place)
            if number % 2:
                theirs, ours = by_node(port, asked.count), by_connprobe(port, asked.count, results)
            else:
                ours, theirs = by_connprobe(port, asked.count, results), by_node(port, asked.count)
            rounds.append((ours, theirs))
            print(number + 1, ours, theirs, file=sys.stderr, flush=True)
    text = block(rounds, asked.count)
    print(text)
    if asked.write:
        NOTES.write_text(replace_block(NOTES.read_text(), text, "load"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
