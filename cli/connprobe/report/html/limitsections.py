"""What `limit` found, as tables of a report: the same rows as on a terminal."""

from collections.abc import Sequence

from connprobe.model import LeftOut, Limit, RunRecord
from connprobe.report.html.markup import Html, code, join, table, tag
from connprobe.report.html.sections import rows_table
from connprobe.report.limited import KERNEL_NOTE, cost_note
from connprobe.report.limitrows import limit_rows, not_known, origin, shown, traffic_rows
from connprobe.report.rows import Rows
from connprobe.report.trialrows import (
    cost_rows,
    over_start_rows,
    stage_rows,
    trial_rows,
    verified_rows,
    verified_sum,
)


def limits_table(limits: Sequence[Limit], left_out: Sequence[LeftOut] = ()) -> Html:
    """All of them: those of connections held, then those of traffic."""
    parts = shown(limits)
    held = parts.held + parts.folded
    made = []
    if held:
        made.append(_limits("Limits", limit_rows(held), held))
    if said := not_known(left_out, limits):
        made.append(tag("p", said, class_="quiet"))
    if parts.traffic:
        made.append(tag("h3", "Limits of traffic"))
        made.append(tag("p", "They count otherwise than connections held.", class_="quiet"))
        made.append(_limits("Limits of traffic", traffic_rows(parts.traffic, len(held) + 1), parts.traffic))
    return join(made)


def _limits(label: str, rows: Rows, limits: Sequence[Limit]) -> Html:
    told = []
    for index, (row, limit) in enumerate(zip(rows.rows, limits, strict=True)):
        about = "; ".join(it for it in (origin(limit), limit.note) if it)
        name = tag("b", row[0]) if index in rows.strong else row[0]
        told.append(
            (name, *row[1:-1], join([code(limit.fix), tag("br") if limit.fix else "", tag("small", about)]))
        )
    return table((*rows.header[:-1], "what lifts it; from"), told, label=label)


def verified(record: RunRecord) -> Html:
    """Prediction and truth side by side."""
    made = rows_table("Predicted and found", verified_rows(record))
    if not made:
        return made
    return join([made, tag("p", verified_sum(record), class_="quiet")])


def costs(record: RunRecord) -> Html:
    made = rows_table("What one more connection costs", cost_rows(record.trials))
    if not made:
        return made
    return join([made, tag("p", cost_note(record), class_="quiet")])


def stages(record: RunRecord) -> Html:
    """The classic table, and bytes of a connection over the start."""
    if not record.stages:
        return Html("")
    count = max(stage.connections.count for stage in record.stages)
    mean = f"Mean of {count} trials ± half of its 95 % interval; " if count > 1 else "One trial; "
    return join(
        [
            tag("p", mean + KERNEL_NOTE + ".", class_="quiet"),
            rows_table("Stages", stage_rows(record.stages), title=False),
            rows_table("A connection, over the start", over_start_rows(record.stages)),
        ]
    )


def trials(record: RunRecord) -> Html:
    return rows_table("Trials", trial_rows(record.trials), title=False)
