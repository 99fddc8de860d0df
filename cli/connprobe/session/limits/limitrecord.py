"""What all trials of a `limit` say together: the record of the last one, with the limits of all of them."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from connprobe.model import (
    HoldRequest,
    Interval,
    Limit,
    LimitRequest,
    RunRecord,
    RuntimeFigures,
    Trial,
    Verdict,
)
from connprobe.plan.advice import advice
from connprobe.plan.limits.combine import combine, combine_left_out
from connprobe.plan.limits.headline import broke, headline, unread
from connprobe.plan.limits.interval import interval
from connprobe.plan.limits.others import others
from connprobe.plan.limits.stages import SHORTEST_S, TICK_S, stage_figures
from connprobe.plan.limits.traffic import burst_limits, cpu_limit, cpus_of, cpus_used
from connprobe.session.limits.trial import TrialRun
from connprobe.session.outcome import Details

REST: Final = frozenset({"start", "ramp", "idle"})  # stages whose readings are of what was asked for


def limit_record(
    request: HoldRequest,
    asked: LimitRequest,
    runs: Sequence[TrialRun],
    records: Sequence[RunRecord],
) -> RunRecord:
    """The last trial's figures, and what all trials together say of the limits."""
    trials = [run.trial() for run in runs]
    last, run, trial = records[-1], runs[-1], trials[-1]
    held = max(each.held for each in trials)
    limits = combine([each.limits for each in trials if each.limits]) if held else ()
    left_out = combine_left_out([each.left_out for each in trials], limits) if held else ()
    limits = (*limits, *_traffic(trials, last, run)) if held else ()
    broken = next((each.broken for each in trials if each.broken), None)
    outcome = "interrupted" if last.outcome == "interrupted" else "missed" if broken else "done"
    messaging = next((each for each in trial.readings if each.stage == "messaging"), None)
    server = last.server
    if server is not None and messaging is not None and "rss_bytes" in messaging.use:
        server = replace(server, messaging_rss_bytes=int(messaging.use["rss_bytes"]))
    peak = next((each for each in trial.readings if each.stage == "peak"), None)
    if server is not None and peak is not None:  # of the ramp: --verify drives it further
        server = replace(server, peak_rss_bytes=int(peak.use["rss_bytes"]))
    unknown = {path: why for path, why in last.unknown.items() if path not in ("limits", "runtime")}
    runtime = _runtime(run, trial)
    if runtime is None:
        unknown["runtime"] = run.heap.unknown or "the server ended before its runtime was asked"
    if run.heap.unread is not None:
        unknown["runtime.worker_threads"] = run.heap.unread
    if messaging is not None:
        unknown.pop("server.messaging_rss_bytes", None)
    elif unknown.get("server.messaging_rss_bytes", "").startswith("this version"):
        unknown["server.messaging_rss_bytes"] = unknown.get("messaging", "the trial ended before")
    if server is not None:
        unknown["server.pss_bytes_per_connection"] = "limit fits it: growth of pss_bytes in trials"
    if not limits:
        early = "the run was interrupted" if outcome == "interrupted" else broken
        unknown["limits"] = early or "no resource grew with the connections"
    return replace(
        last,
        command="limit",
        outcome=outcome,
        request=replace(last.request, target=last.target),
        requested=request.count,
        not_attempted=max(0, request.count - last.held - last.failed - last.dropped),
        failure_details=_told_apart(last.failures, last.failure_details),
        drop_details=_told_apart(last.drops, last.drop_details),
        started_at=records[0].started_at,
        server=server,
        runtime=runtime,
        limits=limits,
        headline=_headline(limits, held, trial, unread(left_out, limits), _why_none(last, broken)),
        left_out=left_out,
        verified=trial.verified,
        verdicts=(*_verdicts(trials, asked, request), *last.verdicts),
        limit_request=asked,
        stages=stage_figures(trials),
        trials=tuple(trials),
        unknown=unknown,
    )


def _headline(
    limits: Sequence[Limit], held: int, last: Trial, unread: str | None, why: str | None
) -> str | None:
    """Where it broke before it had all connections, that is the answer, and no arithmetic."""
    if last.broken is None:
        return headline(limits, held, unread=unread)
    if last.verified is not None and last.verified.side == "server":
        return broke(last.verified, limits)
    return headline(limits, held, unread=unread) if held else f"Not one connection was made: {why}."


def _why_none(last: RunRecord, broken: str | None) -> str | None:
    """Why there was no connection at all, by what most of them failed of, and what to change."""
    if not last.failures:
        return broken
    cause = max(last.failures, key=lambda each: last.failures[each])
    details = last.failure_details.get(cause, {})
    told = advice(cause, False, max(details, key=lambda each: details[each], default=None), command="limit")
    return f"{told.meaning}; {told.fix}"


def _told_apart(counts: Mapping[str, int], details: Details) -> Details:
    """Workers tell details at their end, and by then --verify may have added to them."""
    return {
        cause: found
        if sum((found := details.get(cause, {})).values()) == count
        else {"not told apart": count}
        for cause, count in counts.items()
    }


def _runtime(run: TrialRun, trial: Trial) -> RuntimeFigures | None:
    if run.heap.name is None or run.heap.last_bytes is None:
        return None
    grown = next((each for each in trial.growth if each.metric == "heap_bytes"), None)
    resting = [each for each in trial.readings if each.stage in REST and "heap_bytes" in each.use]
    return RuntimeFigures(
        name=run.heap.name,
        # --verify drives it further.
        heap_bytes=int(resting[-1].use["heap_bytes"]) if resting else run.heap.last_bytes,
        heap_limit_bytes=run.heap.capacity_bytes,
        heap_bytes_per_connection=round(grown.per_connection, 1) if grown else None,
    )


def _traffic(trials: Sequence[Trial], last: RunRecord, run: TrialRun) -> list[Limit]:
    """The limits that bursts and messages meet."""
    found = burst_limits(run.listeners, last.connections_per_s or None)
    idle = [
        each.idle_cpu_share / each.held for each in trials if each.idle_cpu_share is not None and each.held
    ]
    messages = [
        each.message_cpu_s / each.messages
        for each in trials
        if each.message_cpu_s is not None and each.messages
    ]
    held = max(each.held for each in trials)
    processes, threads = run.working or (len(last.server.pids) if last.server is not None else 1, None)
    cpus, note = cpus_of(cpus_used(trials), processes, threads, last.host.cpus)
    spent = cpu_limit(
        _ticked(messages, trials[-1].messages),
        _ticked(idle, held * max(last.hold_s, SHORTEST_S)),
        cpus,
        held=held,
        scope="server",
        source="CPU of the server while messages went round, and while all was idle",
        fix="fewer messages, or more processes of the server and CPUs for them",
        note=note,
    )
    return [*found, spent] if spent is not None else found


def _ticked(each: Sequence[float], number: float) -> Interval | None:
    """CPU seconds for one of `number`: the kernel tells them in ticks, which is all that one trial knows."""
    tick = TICK_S / max(1, number)
    found = interval(each, least=tick)
    if found is None or found.low is not None:
        return found
    return replace(found, low=max(0.0, found.mean - tick), high=found.mean + tick)


def _verdicts(trials: Sequence[Trial], asked: LimitRequest, request: HoldRequest) -> list[Verdict]:
    verdicts = []
    for trial in trials:
        which = f"Trial {trial.number}: " if len(trials) > 1 else ""
        if trial.broken is not None:
            text = f"{which}{trial.broken}, at {trial.held:,} of {request.count:,} connections."
            verdicts.append(Verdict(level="warning", text=text[0].upper() + text[1:]))
        for stage in trial.unsettled:
            verdicts.append(
                Verdict(
                    level="warning",
                    text=f"{which}The server's memory did not settle within {asked.settle_s:g} s ({stage}): "
                    "the intervals are wider for it.",
                    fix="--settle with a longer time",
                )
            )
        if (of_others := others(trial)) is not None:
            verdicts.append(replace(of_others, text=f"{which}{of_others.text}"))
        timed_out = trial.messaging_s is not None and trial.messaging_s >= request.timeout_s
        if asked.message_by != "none" and timed_out and not trial.messages:
            verdicts.append(
                Verdict(
                    level="warning",
                    text=f"{which}Not one message was answered within {request.timeout_s:g} s.",
                    fix="--message-by server where it sends by itself, or --message-by none",
                )
            )
        if trial.verified is not None and trial.verified.side == "client":
            verdicts.append(
                Verdict(
                    level="warning",
                    text=f"{which}This client gave out first, at {trial.verified.connections:,} "
                    f"({trial.verified.cause}): the server's limit was not reached.",
                    fix="see the limits of the client above",
                )
            )
    return verdicts
