"""Predicts where servers break, from a quarter of it at most, and drives each of them to its end.

    python benchmarks/limits.py [--rounds 3] [--only NAME] [--resume] [--write]

Each run is `connprobe limit --verify` on a fresh server. Rounds go over all cases in turn. A run's row is
written to limits.jsonl as soon as it is over; --resume goes on from there.
"""

import argparse
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))

import msgspec
from benchmarks.cases import CASES, Case
from benchmarks.cgroups import group
from benchmarks.limittable import Found, Row, found, summary, table

from benchmarks import ending, processes
from connprobe.model import RunRecord
from connprobe.targets import ready

ROOT = processes.ROOT
NOTES = Path(__file__).with_name("limits.md")
ROWS = "limits.jsonl"
MOST_S = 600.0  # of a run
VERSIONS = (("node", "--version"), ("nginx", "-v"), ("haproxy", "-v"))


def run(case: Case, number: int, results: Path) -> Row:
    """One run of `case`. Whatever fails is the row's `failure`."""
    began, at = time.monotonic(), datetime.now(UTC)
    busy, own = machine_cpu_s(), own_cpu_s()
    before = set(results.iterdir())
    record, failure = None, None
    try:
        with _command(case, results) as command:
            record = limit(command)
    except processes.BenchmarkError as error:
        failure = str(error)
    said = found(record) if record is not None else Found(None, None, None, None, failure)
    wall_s = time.monotonic() - began
    others = (machine_cpu_s() - busy) - (own_cpu_s() - own)
    made = sorted(path.name for path in set(results.iterdir()) - before)
    first = said.first
    return Row(
        case=case.name,
        round=number,
        count=case.count,
        expected=case.expected(case.nofile or resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        commit=commit(),
        at=f"{at:%Y-%m-%dT%H:%M:%SZ}",
        wall_s=round(wall_s, 1),
        others_cpus=round(max(0.0, others) / wall_s, 2),
        predicted=first.connections if first else None,
        low=first.low if first else None,
        high=first.high if first else None,
        binds=first.resource if first else None,
        true=said.true,
        ended=said.ended,
        cause=said.cause,
        failure=said.failure,
        run=made[0] if made else None,
    )


@contextmanager
def _command(case: Case, results: Path) -> Iterator[list[str]]:
    """What runs `connprobe limit` on that server, under the limit that the case is about."""
    limit = [sys.executable, "-m", "connprobe", "limit", "--verify", "--json", "--results", str(results)]
    limit += ["--count", str(case.count), "--for", "2s", *case.arguments]
    with ExitStack() as undo:
        if case.group is not None:
            path = undo.enter_context(group(*case.group))
            directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="connprobe-bench-")))
            port = processes.free_port()
            server = ready(case.server, port, directory, case.options)
            inside = 'echo $$ > "$0" && exec "$@"'
            limit += ["--port", str(port), "--protocol", server.protocol, "--http-mode", server.http_mode]
            limit += ["--", "sh", "-c", inside, str(path / "cgroup.procs"), *server.command]
        else:
            limit += ["--server", case.server]
            limit += [f"--set={name}={value}" for name, value in case.options.items()]
        if case.nofile is not None:  # connprobe raises its own, up to the hard limit
            limit = ["sh", "-c", 'ulimit -Sn "$0" && exec "$@"', str(case.nofile), *limit]
        yield limit


def limit(command: Sequence[str], most_s: float = MOST_S) -> RunRecord:
    """Its run record. Raises BenchmarkError where there is none."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "cli")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        out, err = process.communicate(timeout=most_s)
    except subprocess.TimeoutExpired as error:
        raise processes.BenchmarkError(f"not done after {most_s:.0f} s") from error
    finally:
        processes.end(process)
    try:
        return msgspec.json.decode(out, type=RunRecord)
    except msgspec.DecodeError as error:
        words = " ".join(line.strip() for line in err.splitlines()[-3:])
        raise processes.BenchmarkError(f"exit {process.returncode}: {words}") from error


def machine_cpu_s() -> float:
    """What all CPUs did since boot (source: /proc/stat)."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_cpu_s() -> float:
    """Of this process, and of all that it started and that ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, kinds))


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


def versions() -> str:
    """Of the servers that are measured."""
    said = []
    for program, option in VERSIONS:
        found_at = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if found_at is None:
            continue
        run = subprocess.run([found_at, option], capture_output=True, text=True, check=False, timeout=30)
        lines = (run.stdout + run.stderr).strip().splitlines()
        first = lines[0] if lines else "version unknown"
        said.append(first if program in first.lower() else f"{program} {first}")
    return "; ".join(said)


def measure(asked: argparse.Namespace, cases: Sequence[Case]) -> list[Row]:
    """All rows, those that --resume found too."""
    file: Path = asked.results / ROWS
    rows = read(file) if file.exists() else []
    if rows and not asked.resume:
        raise processes.BenchmarkError(
            f"{file} has rows: --resume goes on from them, or name another --results"
        )
    done = {(row.case, row.round) for row in rows}
    for number in range(1, asked.rounds + 1):
        for case in cases:
            if (case.name, number) in done:
                continue
            row = run(case, number, asked.results)
            append(file, row)
            rows.append(row)
            print(_line(row), file=sys.stderr, flush=True)
    return rows


def append(file: Path, row: Row) -> None:
    """On a line of its own: what was cut off before it goes."""
    with file.open("a+b") as out:
        out.seek(0)
        out.truncate(out.read().rfind(b"\n") + 1)
        out.write(msgspec.json.encode(row) + b"\n")


def read(file: Path) -> list[Row]:
    """The rows of limits.jsonl. A last line that was cut off counts as not run."""
    rows = []
    for line in file.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            rows.append(msgspec.json.decode(line, type=Row))
    return rows


def _line(row: Row) -> str:
    error = "-" if row.error is None else f"{row.error:+.2%}"
    return (
        f"{row.round} {row.case}: predicted {row.predicted} ({row.low} to {row.high}, {row.binds}), true "
        f"{row.true} ({row.ended}), {error}, {row.wall_s:.0f} s; {row.failure or row.cause}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", metavar="NAME", help="cases whose name has this in it")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--results", type=Path, default=ROOT / "results/limits", metavar="DIR")
    parser.add_argument("--write", action="store_true", help=f"put the table into benchmarks/{NOTES.name}")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    cases = [case for case in CASES if asked.only is None or asked.only.lower() in case.name.lower()]
    if not cases:
        raise processes.BenchmarkError(f"no case has {asked.only!r} in its name: {[c.name for c in CASES]}")
    asked.results.mkdir(parents=True, exist_ok=True)
    rows = measure(asked, cases)
    names = [case.name for case in CASES]
    rows = [row for row in rows if row.case in names]
    commits = ", ".join(dict.fromkeys(row.commit for row in rows))
    command = shlex.join(["python", "benchmarks/limits.py", "--rounds", str(asked.rounds), "--write"])
    block = (
        f"{processes.machine()}\nRuns of commit {commits}, {rows[0].at} to {rows[-1].at}. {versions()}.\n\n"
        f"    {command}\n\n{summary(rows, sum(row.wall_s for row in rows))}\n\n{table(rows, names)}"
    )
    ending.publish(block, NOTES, write=asked.write, name="limits")
    return 1 if any(row.failure for row in rows) else 0


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    ending.run(main)
