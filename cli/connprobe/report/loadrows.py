"""What a load measured, as one sentence and as rows that the terminal and report.html share."""

from connprobe.model import Distribution, RunRecord
from connprobe.plan.load import cores, measured_bytes, wrong
from connprobe.plan.threshold import TIMES
from connprobe.report import format as fmt
from connprobe.report.rows import Rows

_HEADER = ("", "mean", "p50", "p90", "p99", "p99.9", "max", "")


def load_sentence(record: RunRecord, kind: str) -> str:
    """kind: what was spoken, as "WebSocket over TLS"."""
    load = record.load
    if load is None:
        return f"Load of {record.target}: no figures."
    noun = "connection" if record.requested == 1 else "connections"
    said = (
        f"{fmt.count(load.visited)} of {fmt.count(record.requested)} {kind} {noun} to {record.target} "
        f"in {fmt.duration(load.total_s)}, {fmt.rate(record.connections_per_s)}; "
        f"{fmt.count(record.failed)} failed, {fmt.count(record.dropped)} dropped, "
        f"{fmt.count(load.wrong)} {wrong(record.request.protocol, load.wrong)}."
    )
    return f"Interrupted. {said}" if record.outcome == "interrupted" else said


def latency_rows(record: RunRecord) -> Rows:
    """Handshakes and messages; one that has no latency says why."""
    handshakes = "to the answer of the handshake, from "
    rated = record.request.rate_per_s is not None
    handshakes += "the intended start: waits for a start are in it" if rated else "connect()"
    rows = [
        _latency("handshake", record.handshake_ms, handshakes),
        _latency("message", record.message_ms, "from a message sent to its whole answer"),
    ]
    return Rows(_HEADER, rows)


def _latency(name: str, took: Distribution | None, what: str) -> tuple[str, ...]:
    if took is None:
        return (name, *[fmt.DASH] * 6, "none was answered")
    figures = (took.mean, took.p50, took.p90, took.p99, took.p999, took.max)
    return (name, *map(fmt.ms, figures), what)


def count_rows(record: RunRecord) -> list[tuple[str, str, str]]:
    load = record.load
    if load is None:
        return []
    of = measured_bytes(record)
    bytes_ = (
        f"of {fmt.count(of)} established connection{'' if of == 1 else 's'} that ended; "
        "handshakes and TLS included"
    )
    if (why := record.unknown.get("load.sent_bytes")) is not None:
        bytes_ = why
    right = "every response was a 2xx" if record.request.protocol == "http" else "every echo was right"
    rows = [
        ("asked", fmt.count(record.requested), ""),
        ("done", fmt.count(load.visited), f"{right}, and closed as the protocol has it"),
        ("failed", fmt.count(record.failed), ""),
        ("dropped", fmt.count(record.dropped), ""),
        (
            wrong(record.request.protocol, 0),
            fmt.count(load.wrong),
            "each ended its connection" if load.wrong else "",
        ),
    ]
    if record.held:
        rows.append(("cut off", fmt.count(record.held), "open when the run ended"))
    if record.not_attempted:
        rows.append(("not attempted", fmt.count(record.not_attempted), "the run ended before their turn"))
    rows += [
        ("total", fmt.duration(load.total_s), f"{fmt.rate(record.connections_per_s)} on average"),
        (
            "messages",
            fmt.count(load.messages),
            f"{fmt.count(load.answered)} answered, {fmt.rate(load.messages_per_s)}",
        ),
        ("bytes sent", fmt.nbytes(load.sent_bytes), bytes_),
        ("bytes received", fmt.nbytes(load.received_bytes), ""),
    ]
    if (taken := cores(load)) is not None:
        rows.append(
            (
                "client CPU",
                fmt.duration(load.workers_cpu_s or 0.0),
                f"{taken:.0%} of one core's time: its workers, without their start",
            )
        )
    if load.late is not None:
        mean, most = fmt.ms(load.late.mean_ms), fmt.ms(load.late.max_ms)
        rows.append(("begun late", mean, f"on average after the intended start, {most} at most"))
    return rows


def threshold_rows(record: RunRecord) -> list[tuple[str, str, str]]:
    """(threshold, met or MISSED, what was measured)."""
    rows = []
    for it in record.load.thresholds if record.load else ():
        metric = it.threshold.split("<")[0].split(">")[0].strip()
        if it.value is None:
            value = "nothing was measured"
        elif metric in TIMES:
            value = fmt.ms(it.value)
        elif metric == "total":
            value = fmt.duration(it.value)
        else:
            value = fmt.number(it.value)
        if metric == "failed" and it.value:
            value += f" ({fmt.count(record.failed)} failed, {fmt.count(record.dropped)} dropped)"
        rows.append((it.threshold, "met" if it.met else "MISSED", value))
    return rows
