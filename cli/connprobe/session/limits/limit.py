"""`limit` as a whole: preflight, a trial on each fresh server, what all of them say together."""

import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace
from rich.console import Console

from connprobe.errors import RunFailed, UsageError
from connprobe.model import (
    HoldRequest,
    LimitRequest,
    Obstacle,
    PipelineRequest,
    RunRecord,
    Verdict,
)
from connprobe.observe.listeners import any_listen_sockets, sockets_of
from connprobe.observe.runtimes import Preparation
from connprobe.observe.runtimes import prepare as prepare_runtime
from connprobe.report.dashboard import progress
from connprobe.report.limited import render_limit_record
from connprobe.report.liveview import shown
from connprobe.session.clientlimits import ceilings_of_client
from connprobe.session.ending import conclude, end_early
from connprobe.session.heap import Heap
from connprobe.session.interrupts import Interrupts
from connprobe.session.limits.limitrecord import limit_record
from connprobe.session.limits.trial import Launch, TrialRun
from connprobe.session.prepare import Prepared, prepare
from connprobe.session.run import say_restored
from connprobe.session.started import StartedServer, free_port, place_of, taken
from connprobe.store.rundir import SERVER_LOG, RunDirectory
from connprobe.targets import Ready, ready

UNKNOWN_PORT = 1  # stands for the server's own, until it listens
VERIFY_UP_TO = (10, 5, 3, 2, 1.5)  # times the count: the first that this host can open


def run_limit(
    request: HoldRequest,
    asked: LimitRequest,
    options: dict[str, str],
    results: Path,
    out: Console,
    err: Console,
    *,
    dry_run: bool,
    json: bool,
) -> int:
    """Exit code of `connprobe limit`: results on `out`, progress and refusals on `err`."""
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)  # the server's, before we raise our own
    if not dry_run:
        say_restored(err)
    starts = bool(asked.command or asked.server)
    if request.target is None:
        request = replace(request, target=_target(request, asked, starts))
    prepared = _prepare(request, asked, results)
    obstacles = (*prepared.obstacles, *(port_taken(asked.port) if starts else ()))
    ended = end_early(prepared.plan, obstacles, out, err, dry_run=dry_run, json=json)
    if ended is not None:
        return ended
    label = asked.server or (Path(asked.command[0]).name if asked.command else request.target or "server")
    with Interrupts() as interrupts, RunDirectory.create(results, "limit", label) as directory:
        directory.write_plan(prepared.plan)
        view = progress(err, asked=request.count, title=f"limit {label}", hold_s=request.hold_s, plain=json)
        runs: list[TrialRun] = []
        records: list[RunRecord] = []
        failed = None
        with shown(view):
            began = time.monotonic()
            for number in range(1, asked.repeat + 1):
                launch = _launch(
                    prepared, asked, options, directory, number, nofile, lambda: interrupts.by is not None
                )
                run = TrialRun(
                    prepared,
                    directory,
                    view,
                    interrupts,
                    asked=asked,
                    number=number,
                    launch=launch,
                    began=began,
                )
                try:
                    records.append(run.execute())
                except RunFailed as failure:
                    if not records:
                        raise
                    failed = f"Trial {number} failed: {failure.message}; what follows is of those before it."
                    break
                runs.append(run)
                if interrupts.by is not None:
                    break
        record = limit_record(request, asked, runs, records)
        if failed is not None:
            verdict = Verdict(level="bad", text=failed)
            record = replace(record, outcome="failed", verdicts=(verdict, *record.verdicts))
        return conclude(directory, record, render_limit_record, out, err, json=json)


def reference(name: str, options: dict[str, str]) -> tuple[Ready, str, int]:
    """A reference server as it would be started: how, its address, and a port that is free now."""
    address = options.get("address", "127.0.0.1")
    with TemporaryDirectory(prefix="connprobe-") as nowhere:
        found = ready(name, UNKNOWN_PORT, Path(nowhere), options)
    return found, address, free_port(address)


# before


def _target(request: HoldRequest, asked: LimitRequest, starts: bool) -> str:
    if starts:
        return f"127.0.0.1:{asked.port or UNKNOWN_PORT}"
    if request.server_pid is None:
        assert asked.port is not None
        found = any_listen_sockets(asked.port)
        return place_of(found).label if found else f"127.0.0.1:{asked.port}"
    try:
        found = sockets_of(request.server_pid, any_listen_sockets(asked.port or 0))
    except OSError as error:
        raise RunFailed(
            f"the listeners of process {request.server_pid} cannot be read: {error.strerror}",
            fix="run as root, or name them with --target",
        ) from error
    ports = sorted({each.port for each in found})
    if len(ports) != 1:
        listed = ", ".join(map(str, ports)) or "no port"
        raise UsageError(
            f"process {request.server_pid} listens on {listed} (in this network namespace)",
            fix="--target HOST:PORT says which is meant",
        )
    return place_of(found).label


def _prepare(request: HoldRequest, asked: LimitRequest, results: Path) -> Prepared:
    """With --verify the plan has room for more than the count: some times it, as far as this host can."""
    if not asked.verify:
        return prepare(request, results)
    if asked.verify_up_to is not None:
        return prepare(replace(request, count=asked.verify_up_to), results)._replace(request=request)
    for factor in VERIFY_UP_TO:
        most = int(request.count * factor)
        wider = prepare(replace(request, count=most), results)
        if not wider.obstacles:
            return wider._replace(request=request)
    return prepare(request, results)


def port_taken(port: int | None) -> tuple[Obstacle, ...]:
    """What is in the way of a server that is to listen there; None: wherever it likes."""
    pids = taken(port) if port is not None else None
    if pids is None:
        return ()
    who = f"process {', '.join(map(str, pids))} listens" if pids else "somebody listens"
    return (
        Obstacle(
            what=f"port {port} for the server",
            have=f"{who} on it",
            need="a free port",
            fix=f"ss -ltnp 'sport = :{port}' shows who; --target attaches to it, --port names another",
        ),
    )


def starter(
    asked: LimitRequest | PipelineRequest,
    options: dict[str, str],
    directory: RunDirectory,
    nofile: tuple[int, int],
    number: int = 1,
) -> tuple[Callable[[], StartedServer], Preparation]:
    """How its command or reference server is started, its runtime ready to be asked for its heap."""
    private = directory.private("server")
    preparation = prepare_runtime(os.environ)
    command, environment = asked.command, dict(preparation.environment)
    if asked.server is not None:
        assert asked.port is not None
        own = ready(asked.server, asked.port, private, options)
        command, environment = own.command, {**own.environment, **environment}

    def start() -> StartedServer:
        name = SERVER_LOG if number == 1 else f"server-{number}.log"
        with directory.open_log(name) as log:
            return StartedServer(command, environment, log, directory.path / name, nofile)

    return start, preparation


def _launch(
    prepared: Prepared,
    asked: LimitRequest,
    options: dict[str, str],
    directory: RunDirectory,
    number: int,
    nofile: tuple[int, int],
    hurry: Callable[[], bool],
) -> Launch:
    start, preparation = None, None
    if asked.command or asked.server:
        start, preparation = starter(asked, options, directory, nofile, number)
    heap = Heap(preparation, inspect=asked.inspect, limit_bytes=asked.heap_limit_bytes, hurry=hurry)
    client = partial(ceilings_of_client, prepared.request, prepared.facts, prepared.target, prepared.plan)

    def again(target: str) -> Prepared:
        return _prepare(replace(prepared.request, target=target), asked, directory.path.parent)

    return Launch(start, heap, client, again)
