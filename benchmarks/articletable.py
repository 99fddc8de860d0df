"""The article's figures beside ours, apart from the runs, so that it can be tested alone."""

from collections.abc import Callable, Mapping
from functools import partial

from connprobe.model import Interval, Limit, RunRecord, Stage

SHAPES = ("array", "object")
MB, KB = 1e6, 1e3
ARTICLE = {
    "start": "12.6 MB",
    "peak": "43.5 MB",
    "idle": "28.7 MB",
    "messaging": "34.8 MB",
    "cpu": "11 %",
    "each": "4.025 kB",
    "limit": "422,000",
}
STAGES: tuple[tuple[Stage, str], ...] = (
    ("start", "RSS, start"),
    ("peak", "RSS, peak"),
    ("idle", "RSS, idle"),
    ("messaging", "RSS, messaging"),
)


def table(records: Mapping[str, RunRecord]) -> str:
    """Markdown; means of the trials, with their 95 % intervals."""
    lines = [
        "| | article, 2011 | array | object |",
        "|---|---:|---:|---:|",
        _row("connections", "4,000", records, lambda record: f"{record.requested:,}"),
        _row("trials", "10", records, lambda record: str(len(record.trials))),
    ]
    for stage, what in STAGES:
        lines.append(_row(what, ARTICLE[stage], records, partial(_rss, stage)))
    lines += [
        _row("CPU of one, messaging", ARTICLE["cpu"], records, _messaging_cpu),
        _row("RSS of a connection, idle", ARTICLE["each"], records, lambda r: _each(r, "rss_bytes")),
        _row("live heap of a connection, idle", "-", records, lambda r: _each(r, "heap_bytes")),
        _row("1.7 GB over the RSS of a connection", ARTICLE["limit"], records, _by_rss),
        _row("connections at which a heap of 1.7 GB ends", "-", records, _by_heap),
    ]
    said = [f"- {shape}: {record.headline}" for shape, record in records.items() if record.headline]
    return "\n".join([*lines, "", *said])


def _row(what: str, article: str, records: Mapping[str, RunRecord], cell: Callable[[RunRecord], str]) -> str:
    return f"| {' | '.join([what, article, *(cell(records[shape]) for shape in SHAPES)])} |"


def _interval(found: Interval | None, unit: str, each: float, digits: int = 1) -> str:
    if found is None:
        return "not measured"
    mean = f"{found.mean / each:,.{digits}f}"
    if found.low is None or found.high is None:
        return f"{mean} {unit}"
    return f"{mean} ± {(found.high - found.low) / 2 / each:,.{digits}f} {unit}"


def _rss(stage: Stage, record: RunRecord) -> str:
    row = next((row for row in record.stages if row.stage == stage), None)
    return _interval(row.use.get("rss_bytes") if row else None, "MB", MB)


def _messaging_cpu(record: RunRecord) -> str:
    row = next((row for row in record.stages if row.stage == "messaging"), None)
    return _interval(row.cpu_share if row else None, "%", 0.01, 0)


def _over_start(record: RunRecord, metric: str) -> Interval | None:
    row = next((row for row in record.stages if row.stage == "idle"), None)
    return row.bytes_per_connection.get(metric) if row else None


def _each(record: RunRecord, metric: str) -> str:
    return _interval(_over_start(record, metric), "kB", KB, 3)


def _by_rss(record: RunRecord) -> str:
    """The article's arithmetic."""
    found, heap = _over_start(record, "rss_bytes"), _heap(record)
    return "not measured" if found is None or heap is None else f"{heap.capacity / found.mean:,.0f}"


def _by_heap(record: RunRecord) -> str:
    found = _heap(record)
    return "not predicted" if found is None else f"{found.connections:,} ({found.low:,} to {found.high:,})"


def _heap(record: RunRecord) -> Limit | None:
    return next((limit for limit in record.limits if limit.resource == "heap"), None)
