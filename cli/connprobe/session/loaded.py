"""The record of a load: that of a hold, with what a load counts, and judged by its thresholds."""

from collections.abc import Iterator

from msgspec.structs import replace

from connprobe.causes import WORKER_LOST
from connprobe.engine.counters import Totals, read_messages
from connprobe.model import HoldRequest, Late, LoadFigures, LoadRequest, RunRecord, Verdict
from connprobe.plan.distribution import distribution
from connprobe.plan.load import client_verdict, established, wrong
from connprobe.plan.threshold import judge
from connprobe.session.outcome import Seen

_NOT_OF_A_LOAD = {
    "kernel": "a load holds no connections to measure it on: connprobe hold",
    "server.idle_rss_bytes": "a load has no idle plateau: connprobe hold",
    "server.bytes_per_connection": "a load has no idle plateau: connprobe hold",
    "server.pss_bytes_per_connection": "a load has no idle plateau: connprobe hold",
    "client.pss_bytes_per_connection": "a load holds no connections when it is read: connprobe hold",
    "client.workers_pss_bytes_per_connection": "a load holds no connections when it is read: connprobe hold",
    "limits": "a load extrapolates no limits: connprobe limit",
}
LATE_MS = 100
LATE = 0.01  # of what was due: more than that not begun means that the rate was not kept


def load_record(record: RunRecord, asked: HoldRequest, load: LoadRequest, seen: Seen) -> RunRecord:
    """record: what `build_record` makes of the run. Thresholds are judged last, on all other figures."""
    totals = seen.totals or Totals()
    requested = _requested(asked, load, totals)
    table = seen.table
    unknown = {**record.unknown, **_NOT_OF_A_LOAD}
    if record.server is None:
        unknown = {path: why for path, why in unknown.items() if not path.startswith("server.")}
    no_bytes = None
    if totals.established <= totals.held + totals.drops.get(WORKER_LOST, 0):
        no_bytes = "bytes are read when an established connection ends, and none did"
    elif totals.unmeasured:
        no_bytes = "this kernel's TCP_INFO tells no bytes"
    if no_bytes is not None:
        unknown["load.sent_bytes"] = unknown["load.received_bytes"] = no_bytes
    late = None
    if asked.rate_per_s is not None and totals.started:
        late = Late(
            mean_ms=round(totals.late_sum_us / totals.started / 1000, 4),
            max_ms=round(totals.late_max_us / 1000, 4),
        )
    figures = LoadFigures(
        visited=totals.visited,
        messages=totals.messages_sent,
        answered=totals.messages_answered,
        wrong=totals.messages_wrong,
        total_s=record.ramp_s,
        messages_per_s=round(totals.messages_answered / record.ramp_s, 1) if record.ramp_s else 0.0,
        sent_bytes=None if no_bytes is not None else totals.sent_bytes,
        received_bytes=None if no_bytes is not None else totals.received_bytes,
        late=late,
        workers_cpu_s=round(totals.cpu_ns / 1e9, 4) if totals.started else None,
    )
    if not totals.started:
        unknown["load.workers_cpu_s"] = "no connection was begun"
    answered = read_messages(table) if table is not None else []
    record = replace(
        record,
        command="load",
        request=replace(
            record.request, count=asked.count, concurrency=asked.concurrency, workers=asked.workers
        ),
        requested=requested,
        not_attempted=max(0, requested - totals.established - totals.failed),
        pings=None,
        connections_per_s=round(totals.visited / record.ramp_s, 1) if record.ramp_s else 0.0,
        message_ms=distribution(answered, totals.message_sum_us, totals.message_max_us),
        load_request=load,
        load=figures,
        unknown=unknown,
    )
    behind = record.outcome != "interrupted" and fell_behind(asked, load, seen)
    judged = judge(load.thresholds, record)
    missed = any(not it.met for it in judged) or bool(seen.lost) or behind
    outcome = record.outcome if record.outcome == "interrupted" else "missed" if missed else "done"
    return replace(
        record,
        outcome=outcome,
        load=replace(figures, thresholds=judged),
        verdicts=(*_verdicts(record, figures, behind), *record.verdicts),
    )


def _requested(asked: HoldRequest, load: LoadRequest, totals: Totals) -> int:
    """With a rate, what was due in the duration; without one and without --count, what there was time for."""
    if load.duration_s is None:
        return asked.count
    due = totals.started
    if asked.rate_per_s is not None:
        due = max(due, int(asked.rate_per_s * load.duration_s))
    return min(asked.count, due) if load.counted else due


def fell_behind(asked: HoldRequest, load: LoadRequest, seen: Seen) -> bool:
    """A rate was asked, and too much of what was due had not begun when the time was over: not where the load
    was given up, or a worker lost."""
    totals = seen.totals or Totals()
    if asked.rate_per_s is None or load.duration_s is None or seen.gave_up or seen.lost:
        return False
    due = _requested(asked, load, totals)
    return due - totals.established - totals.failed > LATE * due


def _verdicts(record: RunRecord, load: LoadFigures, behind: bool) -> Iterator[Verdict]:
    what = wrong(record.request.protocol, 1)
    fix = f"the server has to echo: whatever else it sends counts as a {what}"
    if record.request.protocol == "http":
        fix = "a response of the length that its head names, and not a byte more"
    if load.wrong:
        yield Verdict(
            level="bad",
            text=f"{load.wrong:,} of {established(record):,} established connections got a {what}.",
            fix=fix,
        )
    told = client_verdict(load, record.client.workers)
    if told is not None:
        yield told
    asked, rate = record.request, record.request.rate_per_s
    late = load.late
    if rate is None or late is None:
        return
    if behind:
        yield Verdict(
            level="bad",
            text=f"The rate was not kept: {record.not_attempted:,} of {record.requested:,} connections were "
            "due and had not begun when the time was over. Their wait is in no latency.",
            fix=f"a higher --concurrency than {asked.concurrency:,}, or a lower --rate than {rate:,g}",
        )
    elif late.max_ms > LATE_MS:
        yield Verdict(
            level="note",
            text=f"Connections began up to {late.max_ms:,.0f} ms after their time; {asked.concurrency:,} may "
            "be open at once. That wait is part of the handshake latency.",
            fix="a higher --concurrency lets them begin in time, unless this host is too busy",
        )
