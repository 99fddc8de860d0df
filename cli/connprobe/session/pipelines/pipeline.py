"""`pipeline` as a whole: preflight, one run on one server, its record."""

import os
import resource
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from connprobe.model import (
    Obstacle,
    PipelineRequest,
    Target,
)
from connprobe.observe.cgroupmemory import tightest_memory
from connprobe.observe.listeners import listener_pids
from connprobe.observe.machine import available_memory
from connprobe.observe.reading import ServerMeter
from connprobe.plan.parse import parse_target
from connprobe.plan.pipeline import MemoryBound, memory_bound
from connprobe.report.pipeline import render_pipeline
from connprobe.report.plan import render_obstacles
from connprobe.session.ending import DONE, REFUSED, conclude, print_json
from connprobe.session.heap import Heap
from connprobe.session.interrupts import Interrupts
from connprobe.session.limits.limit import port_taken, starter
from connprobe.session.pipelines.pipelined import PipelineRun
from connprobe.session.pipelines.pipelineoutcome import build_record
from connprobe.session.run import say_restored
from connprobe.session.target import get_request, resolve
from connprobe.store.rundir import RunDirectory, check_writable

SPACE_BYTES = 10_000_000
UNKNOWN_PORT = 1  # stands for the server's own, until it listens


def run_pipeline(
    request: PipelineRequest,
    options: dict[str, str],
    results: Path,
    out: Console,
    err: Console,
    *,
    dry_run: bool,
    json: bool,
) -> int:
    """Exit code of `connprobe pipeline`: results on `out`, progress and refusals on `err`."""
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not dry_run:
        say_restored(err)
    starts = bool(request.command or request.server)
    target = resolve(*parse_target(request.target or f"127.0.0.1:{request.port or UNKNOWN_PORT}"))
    bound, obstacles = _preflight(request, target, results, starts=starts)
    if obstacles:
        render_obstacles(obstacles, err)
    if dry_run:
        _say_plan(request, bound, obstacles, out, json=json)
    if obstacles or dry_run:
        return REFUSED if obstacles else DONE
    label = request.server or (Path(request.command[0]).name if request.command else target.label)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")

    def say(line: str) -> None:
        with suppress(OSError):  # the terminal is gone: the run is not
            err.print(line, markup=False)

    with Interrupts() as interrupts, RunDirectory.create(results, "pipeline", label) as directory:
        start, preparation = starter(request, options, directory, nofile) if starts else (None, None)
        run = PipelineRun(
            request,
            lambda reached: get_request(reached, request.path, request.headers),
            target,
            bound,
            start,
            Heap(
                preparation,
                inspect=False,
                limit_bytes=request.heap_limit_bytes,
                hurry=lambda: interrupts.by is not None,
            ),
            directory,
            interrupts,
            say,
        )
        run.execute()
        record = build_record(request, run, started_at, nofile[0], interrupted=interrupts.by is not None)
        return conclude(directory, record, render_pipeline, out, err, json=json)


# before


def _preflight(
    request: PipelineRequest, target: Target, results: Path, *, starts: bool
) -> tuple[MemoryBound, tuple[Obstacle, ...]]:
    obstacles = list(port_taken(request.port)) if starts else []
    rss_bytes, pid = 0, os.getpid()
    if not starts:
        pids = (
            (request.server_pid,)
            if request.server_pid
            else listener_pids(target.scoped_address, target.port).pids
        )
        use = ServerMeter(pids).quick() if pids else None
        if use is not None:
            rss_bytes, pid = use[0], pids[0]
    try:
        tightest = tightest_memory(pid)
    except OSError:
        tightest = None
    left = max(0, tightest.capacity_bytes - tightest.taken_bytes) if tightest is not None else None
    available = available_memory()
    bound = memory_bound(request.memory_bound_bytes, available, left, rss_bytes)
    room = rss_bytes + (available if left is None else min(available, left))
    if bound.bytes > room:
        obstacles.append(
            Obstacle(
                what="memory for the server",
                have=f"{room / 1e6:,.0f} MB",
                need=f"{bound.bytes / 1e6:,.0f} MB, as {bound.source} says",
                fix=f"--memory-bound {max(1, room // 2_000_000)}MB, or without it",
            )
        )
    unwritable = check_writable(results, SPACE_BYTES)
    return bound, (*obstacles, *([unwritable] if unwritable is not None else []))


def _say_plan(
    request: PipelineRequest, bound: MemoryBound, obstacles: tuple[Obstacle, ...], out: Console, *, json: bool
) -> None:
    if json:
        plan = {"request": request, "memory_bound_bytes": bound.bytes, "memory_bound_source": bound.source}
        print_json(out, {"plan": plan, "obstacles": obstacles})
    elif not obstacles:
        out.print(
            f"{request.count:,} requests down one connection in {request.steps} steps, until the server has "
            f"{bound.bytes / 1e6:,.0f} MB of RSS ({bound.source}); nothing was touched.",
            markup=False,
        )
