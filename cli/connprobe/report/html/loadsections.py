"""What `load` measured, as tables of a report: the same rows as on a terminal."""

from connprobe.model import RunRecord
from connprobe.report.html.markup import Html, join, pairs, table, tag
from connprobe.report.loadrows import count_rows, latency_rows, threshold_rows


def load(record: RunRecord) -> Html:
    """Latencies, thresholds and counts; nothing of another command."""
    if record.load is None:
        return Html("")
    latencies = latency_rows(record)
    made = [table(latencies.header, latencies.rows, label="Latency")]
    if judged := threshold_rows(record):
        rows = [(name, tag("b", met), value) for name, met, value in judged]
        made += [
            tag("h3", "Thresholds"),
            table(("threshold", "", "measured"), rows, left=2, label="Thresholds"),
        ]
    counts = [(name, f"{value}  {about}".rstrip()) for name, value, about in count_rows(record)]
    return join([*made, tag("h3", "Connections"), pairs(counts, label="Connections")])
