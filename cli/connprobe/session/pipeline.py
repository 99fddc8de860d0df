"""`pipeline` as a whole: preflight, one run on one server, its record."""

import os
import platform
import re
import resource
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace
from rich.console import Console

from connprobe.errors import RunFailed
from connprobe.model import (
    PIPELINE_SCHEMA,
    HostRecord,
    Obstacle,
    PipelineRecord,
    PipelineRequest,
    RuntimeFigures,
    Target,
    Verdict,
)
from connprobe.observe.cgroupmemory import tightest_memory
from connprobe.observe.listeners import listener_pids
from connprobe.observe.machine import available_memory
from connprobe.observe.reading import ServerMeter
from connprobe.plan.parse import parse_target
from connprobe.plan.pipeline import MemoryBound, headline, memory_bound
from connprobe.report.pipeline import render_pipeline
from connprobe.report.plan import render_obstacles
from connprobe.session.heap import Heap
from connprobe.session.interrupts import Interrupts
from connprobe.session.limit import port_taken, starter
from connprobe.session.outcome import without_secrets
from connprobe.session.pipelined import PipelineRun
from connprobe.session.run import DONE, EXIT, REFUSED, print_json, say_restored
from connprobe.session.target import resolve
from connprobe.store.rundir import RunDirectory, check_writable
from connprobe.system.facts import read_facts
from connprobe.version import __version__
from connprobe.wire.http import request_bytes

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
    nofile, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
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
            lambda reached: _text(request, reached),
            target,
            bound,
            start,
            Heap(preparation, inspect=False, limit_bytes=request.heap_limit_bytes),
            directory,
            interrupts,
            say,
        )
        run.execute()
        record = _record(request, run, started_at, nofile, interrupted=interrupts.by is not None)
        unwritten: RunFailed | None = None
        try:
            directory.write_pipeline(record)
        except RunFailed as failure:
            unwritten = failure
        if directory.error is not None:
            unwritten = unwritten or RunFailed(
                f"samples.jsonl is not complete: {directory.error}", fix="free space in the results directory"
            )
        with suppress(OSError):
            if json:
                print_json(out, record)
            else:
                render_pipeline(record, out, results=str(directory.path.absolute()))
    if unwritten is not None:
        raise unwritten
    return EXIT[record.outcome]


# before


def _preflight(
    request: PipelineRequest, target: Target, results: Path, *, starts: bool
) -> tuple[MemoryBound, tuple[Obstacle, ...]]:
    obstacles = list(port_taken(request.port)) if starts else []
    rss_bytes, pid = 0, os.getpid()
    if not starts:
        pids = (
            (request.server_pid,) if request.server_pid else listener_pids(target.address, target.port).pids
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


def _text(request: PipelineRequest, target: Target) -> bytes:
    host = re.sub(r"%[^\]]*", "", target.label)  # a zone means nothing to the server
    named = any(name.lower() == "host" for name, _ in request.headers)
    return request_bytes("GET", request.path, [*([] if named else [("Host", host)]), *request.headers])


# after


def _record(
    request: PipelineRequest, run: PipelineRun, started_at: str, nofile: int, *, interrupted: bool
) -> PipelineRecord:
    found, answers = run.prediction, run.answers
    growth = {each.metric: each for each in found.growth} if found else {}
    limits = found.limits if found else ()
    answered = answers.early + (answers.released or 0)
    unknown = dict(run.unknown)
    runtime = None
    if run.heap.name is not None and run.heap.last_bytes is not None:
        heap = growth.get("heap_bytes")
        runtime = RuntimeFigures(
            name=run.heap.name,
            heap_bytes=run.heap.last_bytes,
            heap_limit_bytes=run.heap.capacity_bytes,
            heap_bytes_per_connection=round(heap.per_connection, 1) if heap else None,
        )
    else:
        unknown.setdefault("runtime", run.heap.unknown or "the server ended before its runtime was asked")
    if not growth:
        unknown["growth"] = "memory was read too seldom, or with too few requests pending"
    if answers.in_order is None and answered:
        unknown["answers.in_order"] = "the answers do not name the place of their request (Connprobe-Number)"
    facts = read_facts()
    return PipelineRecord(
        schema=PIPELINE_SCHEMA,
        connprobe=__version__,
        command="pipeline",
        outcome="interrupted" if interrupted else "done" if _is_done(run) else "missed",
        started_at=started_at,
        target=run.target.label,
        request=replace(request, headers=tuple(without_secrets(request.headers))),
        requested=request.count,
        request_bytes=run.request_bytes,
        sent=run.sent,
        received=run.received,
        received_by="read" if run.received_by_reading else "acknowledged",
        pending=run.pending,
        ended=run.ended,
        ended_by=run.ended_by,
        send_s=round(run.send_s, 3),
        requests_per_s=round(run.received / run.send_s, 1) if run.send_s and run.received else None,
        answers=answers,
        steps=tuple(run.steps),
        readings=tuple(run.readings),
        growth=tuple(growth.values()),
        limits=limits,
        verified=run.verified,
        memory_bound_bytes=run.bound.bytes,
        memory_bound_source=run.bound.source,
        memory_bound_met=run.bound_met,
        server_pids=run.server_pids,
        start_rss_bytes=run.start_rss_bytes,
        peak_rss_bytes=run.peak_rss_bytes,
        runtime=runtime,
        host=HostRecord(
            kernel=facts.kernel,
            cpus=facts.cpus,
            memory_total_bytes=facts.memory_total_bytes,
            nofile=nofile,
            python=platform.python_version(),
        ),
        headline=headline(
            ended="count" if run.verifying else run.ended,  # what broke then has a table of its own
            ended_by=run.ended_by,
            pending=run.held if run.verifying else run.pending,
            received=run.received,
            answered=answers.early,
            growth=growth,
            limits=limits,
            bound=run.bound_met,
        ),
        verdicts=tuple(_verdicts(request, run)),
        unknown=unknown,
    )


def _is_done(run: PipelineRun) -> bool:
    """A server that bounds what is pending did what it should; one that died did so only if it was to."""
    if run.release_failed is not None or run.answers.in_order is False:
        return False
    planned = ("count", "stopped_reading", "memory_bound")
    return run.ended in planned or (run.verifying and run.verified is not None)


def _verdicts(request: PipelineRequest, run: PipelineRun) -> list[Verdict]:
    verdicts = []
    answers = run.answers
    if run.ended == "answered":
        verdicts.append(
            Verdict(
                level="bad",
                text=f"It answers at once ({answers.early:,} of {run.received:,}): nothing can be pending.",
                fix="--path of something that is answered late; --server node-pipeline is built to wait",
            )
        )
    elif answers.early:
        verdicts.append(
            Verdict(level="warning", text=f"{answers.early:,} were answered although nothing was released.")
        )
    if run.ended in ("died", "lost") and not run.verifying:
        verdicts.append(Verdict(level="bad", text=f"{run.ended_by[0].upper()}{run.ended_by[1:]}."))
    if run.ended == "stopped_reading":
        text = "What is beyond waits in the sockets of both ends: memory of the kernel, and bounded by it."
        verdicts.append(Verdict(level="good", text=text))
    if run.ended == "memory_bound":
        verdicts.append(
            Verdict(
                level="note",
                text=f"{run.ended_by} ({run.bound.source}).",
                fix="--memory-bound with more, where memory allows",
            )
        )
    for stage in dict.fromkeys(run.unsettled):
        verdicts.append(
            Verdict(
                level="warning",
                text=f"The server's memory did not settle within {request.settle_s:g} s ({stage}): the "
                "intervals are wider for it.",
                fix="--settle with a longer time",
            )
        )
    if run.release_failed is not None:
        verdicts.append(
            Verdict(
                level="bad",
                text=f"{answers.released or 0:,} of {answers.expected or 0:,} were answered when they were "
                f"released: {run.release_failed}.",
                fix="--release-path, and --timeout with a longer time",
            )
        )
    elif answers.released is not None:
        order = {
            True: ", in the order of the requests",
            False: ", NOT in the order of the requests",
            None: "",
        }
        text = (
            f"All {answers.expected or 0:,} were answered when they were released{order[answers.in_order]}."
        )
        verdicts.append(Verdict(level="bad" if answers.in_order is False else "good", text=text))
    odd = {status: count for status, count in answers.statuses.items() if not status.startswith("2")}
    if odd:
        listed = ", ".join(f"{count:,} with {status}" for status, count in odd.items())
        verdicts.append(Verdict(level="warning", text=f"Answers that say no: {listed}."))
    return verdicts
