"""Starts what the benchmarks measure, ends it whatever happens, and reads what the machine says of itself.

The floor's processes and connprobe's are started the same way, each on a port of its own, and no run
starts before the sockets of the one before are gone.
"""

import ctypes
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import Ramp, from_floor, from_run, sockets_in_use

ROOT = Path(__file__).resolve().parents[1]
FLOOR = ROOT / "benchmarks/floor"
CONNPROBE = ROOT / ".venv/bin/connprobe"
# What is measured is what stands beside this file, wherever .venv leads.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "cli"), os.environ.get("PYTHONPATH"))))

READY_S = 30.0
GRACE_S = 30.0
SETTLE_S = 75.0  # TIME_WAIT lasts 60 s (TCP_TIMEWAIT_LEN)
STRAY_SOCKETS = 40_000  # TIME_WAIT of the run before, if SETTLE_S does not see it through
HIGHEST_SHARE = 18_000  # connections a process: below 20,000 descriptors, with room for uneven hashing

CLONE_NEWNET = 0x40000000  # linux/sched.h; os.unshare and os.setns come with Python 3.12
TIME_WAITS = 100  # in a network of its own: those beyond are closed at once

# Counters, not settings: they change by themselves.
COUNTERS = {
    "fs/aio-nr",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "net/netfilter/nf_conntrack_count",
}


class BenchmarkError(Exception):
    """A run that gave no figure; the message says which command, and what it printed."""


def shares(count: int, share: int = HIGHEST_SHARE) -> int:
    """Processes needed for `count` connections; one while they fit (19,000 on a limit of 20,000)."""
    return 1 if count <= 19_000 else -(-count // share)


def build_floor() -> None:
    subprocess.run(["make", "--quiet", "-C", str(FLOOR)], check=True, timeout=120)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """SIGTERM, so that it can undo what it did; SIGKILL where that does not help."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(GRACE_S)


def output(command: Sequence[str], timeout_s: float, accepted: Sequence[int] = (0,)) -> str:
    """Standard output of a command. Raises BenchmarkError when it fails or takes too long."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{' '.join(command)}: not done after {timeout_s:.0f} s") from error
    finally:
        end(process)
    if process.returncode not in accepted:
        raise BenchmarkError(f"{' '.join(command)}: exit {process.returncode}\n{err[-2000:]}")
    return out


@contextmanager
def network_of_its_own() -> Iterator[None]:
    """All that is started within has a loopback of its own, where TIME_WAIT need not be waited for.

    Raises BenchmarkError where that is not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(CLONE_NEWNET):
            raise BenchmarkError(f"a network namespace: {os.strerror(ctypes.get_errno())}; run it as root")
        try:
            output(["ip", "link", "set", "lo", "up"], 30)
            Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text(str(TIME_WAITS))
            yield
        finally:
            if libc.setns(before.fileno(), CLONE_NEWNET):
                raise BenchmarkError(f"back from a network namespace: {os.strerror(ctypes.get_errno())}")


@contextmanager
def server(kind: str, room: int) -> Iterator[int]:
    """A WebSocket server, "floor" or "connprobe", with processes enough for `room`. Yields its port."""
    port, processes = free_port(), str(shares(room))
    command = [str(FLOOR / "bin/server"), str(port), processes, "ws"]
    if kind == "connprobe":
        listen = f"127.0.0.1:{port}"
        command = [str(CONNPROBE), "serve", "--listen", listen, "--protocol", "ws", "--processes", processes]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stderr is not None
        deadline, said = time.monotonic() + READY_S, ""
        while "listening on" not in said:
            ready, _, _ = select.select([process.stderr], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(process.stderr.fileno(), 4096).decode() if ready else ""
            if not chunk:
                raise BenchmarkError(f"{' '.join(command)}: not listening after {READY_S:.0f} s\n{said}")
            said += chunk
        yield port
    finally:
        end(process)
        if process.stderr is not None:
            process.stderr.close()


def floor_client(port: int, count: int, concurrency: int, room: int = 0) -> Ramp:
    """With workers enough for `room` connections, where that is more than `count`."""
    # One a CPU, as connprobe has: at 19,000 a second worker makes the floor about 30 % faster.
    workers = max(os.cpu_count() or 1, shares(max(count, room)))
    arguments = map(str, (port, count, concurrency, workers, 0))
    command = [str(FLOOR / "bin/client"), *arguments, "ws"]
    return from_floor(output(command, patience_s(count)))


def connprobe_hold(results: Path, count: int, hold_s: int, *options: str) -> str:
    """The run record, as printed. Raises BenchmarkError."""
    asked = ["--count", str(count), "--protocol", "ws", "--for", f"{hold_s}s", "--results", str(results)]
    return output([str(CONNPROBE), "hold", *asked, *options, "--json"], patience_s(count) + hold_s)


def connprobe_client(
    port: int, count: int, concurrency: int, results: Path, *more: str, hold_s: int = 3
) -> Ramp:
    options = ["--target", f"127.0.0.1:{port}", "--concurrency", str(concurrency), *more]
    record = connprobe_hold(results, count, hold_s, *options)
    try:
        return from_run(record)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error


def patience_s(count: int) -> float:
    return 120 + count / 1000


def sockets() -> int:
    return sockets_in_use(Path("/proc/net/sockstat").read_text())


def settle(base: int, stray: int = STRAY_SOCKETS) -> int:
    """Waits until the sockets of the last run are gone, but for `stray`. Returns how many are left."""
    deadline = time.monotonic() + SETTLE_S
    while (extra := sockets() - base) > stray and time.monotonic() < deadline:
        time.sleep(0.25)
    if extra > stray:
        print(f"warning: {extra:,} sockets are left of the run before", file=sys.stderr)
    return extra


def settings() -> dict[str, str]:
    """Every readable sysctl of net and fs, and every address of this network namespace."""
    base, found = Path("/proc/sys"), {}
    for room in ("net", "fs"):
        for path in (base / room).rglob("*"):
            name = str(path.relative_to(base))
            if name in COUNTERS or not path.is_file():
                continue
            try:
                found[name] = path.read_text(errors="replace")
            except OSError:
                continue  # write-only (route/flush), or refused: nothing to compare
    lines = output(["ip", "-o", "addr"], 30).splitlines()
    found["addresses"] = "\n".join(sorted(line.split("valid_lft")[0] for line in lines))
    return found


def machine() -> str:
    """One paragraph on what the figures were taken with."""
    cpuinfo, meminfo = Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text()
    cpu = next(
        (line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "?"
    )
    memory_gib = int(meminfo.split(maxsplit=2)[1]) / 2**20
    commit = output(["git", "describe", "--always", "--dirty"], 30).strip()
    return (
        f"{cpu}, {os.cpu_count()} CPUs, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, commit {commit}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    )
