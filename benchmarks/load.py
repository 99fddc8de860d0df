"""`connprobe load` beside two load generators in Node, against the same server: benchmarks/load.md.

    python benchmarks/load.py [--rounds 5] [--count 10000] [--write]

The server is the control of the proxies' comparison: targets/node_ws.js, as a cluster of two processes. The
clients take turns within a round: connprobe; thor, the article's own tool; and wsload/load.js, the least that
the npm package ws can do. What wsload/package.json pins is installed into a directory of its own.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import replace_block

from benchmarks import processes

NOTES = Path(__file__).with_name("load.md")
WSLOAD = Path(__file__).parent / "wsload"
SPENT = Path(__file__).with_name("spent.py")
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "connprobe-wsload"
CONCURRENCY = 100
MESSAGE_BYTES = 32  # what `connprobe load` sends where nothing else is asked
LISTENS_S = 30.0
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Took:
    """total_s: as the tool tells it. wall_s, cpu_s: of the whole command, with all its processes.
    workers_cpu_s: of those that made the connections; None: the tool does not tell it.
    """

    total_s: float
    wall_s: float
    cpu_s: float
    workers_cpu_s: float | None = None


def install() -> None:
    pinned = WSLOAD / "package.json"
    there = HOME / "package.json"
    if there.exists() and there.read_text() == pinned.read_text() and (HOME / "node_modules/thor").exists():
        return
    shutil.rmtree(HOME / "node_modules", ignore_errors=True)
    HOME.mkdir(parents=True, exist_ok=True)
    shutil.copy(pinned, there)
    options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(["npm", "install", *options, "--prefix", str(HOME)], check=True, timeout=300)


@contextmanager
def control() -> Iterator[int]:
    port = processes.free_port()
    script = processes.ROOT / "targets" / "node_ws.js"
    process = subprocess.Popen(["node", str(script), "127.0.0.1", str(port), "2"], text=True)
    try:
        wait_until(lambda: listens(port), f"{script} does not listen")
        yield port
    finally:
        processes.end(process)


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + LISTENS_S
    while not condition():
        if time.monotonic() > deadline:
            raise processes.BenchmarkError(otherwise)
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def spent(command: list[str]) -> tuple[str, float, float]:
    """(standard output, wall_s, cpu_s) of a command, with all processes that it starts."""
    with tempfile.NamedTemporaryFile() as file:
        out = processes.output([sys.executable, str(SPENT), file.name, *command], PATIENCE_S)
        told = json.loads(Path(file.name).read_text())
    return out, told["wall_s"], told["cpu_s"]


def by_thor(port: int, count: int) -> Took:
    """As many at once are in their handshakes: one that is open makes room for the next, as thor has it."""
    asked = ["--amount", str(count), "--concurrent", str(CONCURRENCY), "--messages", "1"]
    asked += [
        "--buffer",
        str(MESSAGE_BYTES),
        "--masked",
    ]  # unmasked, as it is, no server may take it (RFC 6455)
    command = ["node", str(HOME / "node_modules/thor/bin/thor"), *asked, f"ws://127.0.0.1:{port}/"]
    out, wall_s, cpu_s = spent(command)
    taken_s = told_by_thor(out, count)
    if taken_s is None:
        raise processes.BenchmarkError(f"{' '.join(command)}: connections went wrong\n{out[-2000:]}")
    return Took(taken_s, wall_s, cpu_s)


def told_by_thor(out: str, count: int) -> float | None:
    """Seconds that thor says it took; None: not all of `count` connected, or no echo came (NaN)."""
    names = ("Time taken", "Connected", "Failed", "Latency")
    told = [found[1] for name in names if (found := re.search(rf"^{name} +(\S+)", out, re.MULTILINE))]
    if len(told) < len(names) or told[1:3] != [str(count), "0"] or not told[3].isdigit():
        return None
    return int(told[0]) / 1000


def by_ws(port: int, count: int) -> Took:
    script = ["env", f"NODE_PATH={HOME / 'node_modules'}", "node", str(WSLOAD / "load.js")]
    out, wall_s, cpu_s = spent([*script, str(port), str(count), str(CONCURRENCY)])
    told = json.loads(out)
    if told["wrong"]:
        raise processes.BenchmarkError(f"{told['wrong']} connections of {WSLOAD / 'load.js'} went wrong")
    return Took(told["total_s"], wall_s, cpu_s, told["cpu_s"])


def by_connprobe(port: int, count: int) -> Took:
    with tempfile.TemporaryDirectory() as results:
        asked = ["--target", f"127.0.0.1:{port}", "--count", str(count), "--concurrency", str(CONCURRENCY)]
        command = [str(processes.CONNPROBE), "load", *asked, "--results", results, "--json"]
        out, wall_s, cpu_s = spent(command)
    load = json.loads(out)["load"]
    return Took(load["total_s"], wall_s, cpu_s, load["workers_cpu_s"])


OURS = "connprobe load"
CLIENTS: dict[str, Callable[[int, int], Took]] = {
    OURS: by_connprobe,
    "thor": by_thor,
    "Node with ws": by_ws,
}


def block(rounds: list[dict[str, Took]], count: int) -> str:
    of = {name: [one[name] for one in rounds] for name in CLIENTS}
    ours, plural = of[OURS], "" if len(rounds) == 1 else "s"
    lines = [
        processes.machine(),
        "",
        f"| {count:,} connections, {CONCURRENCY} at once, {len(rounds)} round{plural} "
        "| median | least | most | goal |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [row(f"{name}, total", [took.total_s for took in all_], "s") for name, all_ in of.items()]
    for name, goal in (("thor", "at least 2"), ("Node with ws", "")):
        ratios = [took.total_s / our.total_s for took, our in zip(of[name], ours, strict=True)]
        lines.append(row(f"throughput: connprobe over {name}", ratios, "", goal))
    cpu_s = [took.workers_cpu_s or 0.0 for took in ours]
    shares = [spent / took.total_s for spent, took in zip(cpu_s, ours, strict=True)]
    lines.append(row("CPU of connprobe's workers, of one core's time", shares, "", "under 0.5"))
    lines.append(row("CPU of connprobe's workers", cpu_s, "s"))
    for name, all_ in of.items():
        lines.append(row(f"{name}, CPU of the whole command", [took.cpu_s for took in all_], "s"))
    for name, all_ in of.items():
        lines.append(row(f"{name}, time of the whole command", [took.wall_s for took in all_], "s"))
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
    names = list(CLIENTS)
    with control() as port:
        by_ws(port, 1000)  # the server has compiled what it runs most by then
        for number in range(asked.rounds):
            first = number % len(names)
            took = {name: CLIENTS[name](port, asked.count) for name in names[first:] + names[:first]}
            rounds.append(took)
            print(number + 1, took, file=sys.stderr, flush=True)
    text = block(rounds, asked.count)
    print(text)
    if asked.write:
        NOTES.write_text(replace_block(NOTES.read_text(), text, "load"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
