"""What a run of `pipeline` came to: its record, and its verdicts in plain sentences."""

import platform
from collections.abc import Sequence

from msgspec.structs import replace

from connprobe.model import (
    PIPELINE_SCHEMA,
    HostRecord,
    PipelineRecord,
    PipelineRequest,
    PipelineStep,
    RuntimeFigures,
    Verdict,
)
from connprobe.plan.pipeline import headline
from connprobe.session.outcome import without_secrets
from connprobe.session.pipelines.pipelined import NOTHING_READ, PipelineRun
from connprobe.system.facts import read_facts
from connprobe.version import __version__


def build_record(
    request: PipelineRequest, run: PipelineRun, started_at: str, nofile: int, *, interrupted: bool
) -> PipelineRecord:
    """Figures that were not taken are None and named in `unknown`. nofile: the server's soft limit."""
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
    if _rate(run.steps) is None:
        unknown["requests_per_s"] = "no step came to its end"
    for name, least, most in (
        ("received", run.received, run.received_most),
        ("pending", run.pending, run.pending_most),
    ):
        if most and not least and run.gone:
            unknown[name] = f"{NOTHING_READ}: at most {most:,}"
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
        received=None if "received" in unknown else run.received,
        received_most=run.received_most,
        received_by="read" if run.received_by_reading else "acknowledged",
        pending=None if "pending" in unknown else run.pending,
        pending_most=run.pending_most,
        ended=run.ended,
        ended_by=run.ended_by,
        requests_per_s=_rate(run.steps),
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
            pending_most=run.held if run.verifying else run.pending_most,
            received=run.received,
            answered=answers.early,
            growth=growth,
            limits=limits,
            bound=run.bound_met,
        ),
        verdicts=tuple(_verdicts(request, run)),
        unknown=unknown,
    )


def _rate(steps: Sequence[PipelineStep]) -> float | None:
    whole = [step for step in steps if step.send_s]
    spent_s = sum(step.send_s or 0.0 for step in whole)
    return round(whole[-1].received / spent_s, 1) if whole else None


def _is_done(run: PipelineRun) -> bool:
    """A server that bounds what is pending did what it should; one that died did so only if it was to."""
    if run.release_failed is not None or run.answers.in_order is False:
        return False
    planned = ("count", "stopped_reading", "memory_bound")
    return run.pending > 0 and (run.ended in planned or (run.verifying and run.verified is not None))


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
