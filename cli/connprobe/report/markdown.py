"""GitHub-flavoured Markdown, for an issue or a README: tables, a stranger's text, what `limit` found."""

import re
from collections.abc import Sequence

from connprobe.model import PipelineRecord, RunRecord
from connprobe.report import format as fmt
from connprobe.report import pipeline
from connprobe.report.limited import cost_note
from connprobe.report.limitrows import folded, limit_rows, not_known, notes, shown, traffic_rows
from connprobe.report.rows import Rows
from connprobe.report.trialrows import (
    cost_rows,
    over_start_rows,
    stage_rows,
    trial_rows,
    verified_rows,
    verified_sum,
)


def limit_markdown(record: RunRecord) -> str:
    """The same tables as on the terminal; "" for a run that has none."""
    parts = shown(record.limits)
    numbered = parts.held + parts.traffic
    lines: list[str] = []
    lines += _section("Limits", limit_rows(parts.held))
    if parts.folded:
        lines += ["", escaped(folded(parts.folded, "run.json"))]
    if said := not_known(record.left_out, record.limits):
        lines += ["", escaped(said)]
    lines += _section("Limits of traffic", traffic_rows(parts.traffic, len(parts.held) + 1))
    if numbered:
        lines += ["", "What lifts them:", ""]
        lines += [
            f"{number}. `{in_code(limit.fix)}`" for number, limit in enumerate(numbered, 1) if limit.fix
        ]
        lines += ["", *(f"- {escaped(which)}: {escaped(said)}" for which, said in notes(numbered))]
    lines += _section("Predicted and found", verified_rows(record))
    if said := verified_sum(record):
        lines += ["", escaped(said)]
    lines += _section("Stages", stage_rows(record.stages))
    lines += _section("A connection, over the start", over_start_rows(record.stages))
    costs = _section("What one more connection costs", cost_rows(record.trials))
    lines += [*costs, "", escaped(cost_note(record))] if costs else []
    lines += _section("Trials", trial_rows(record.trials))
    return "\n".join(lines) + "\n" if lines else ""


def pipeline_markdown(record: PipelineRecord) -> str:
    """The sentence, then the same tables as on the terminal."""
    lines = [escaped(record.headline)]
    lines += _section("Where it ends", pipeline.end_rows(record))
    fixes = [f"- `{in_code(limit.fix)}`" for limit in record.limits if limit.fix]
    lines += ["", "What lifts it:", "", *fixes] if fixes else []
    if record.verified is not None:
        lines += _section("Predicted and found", pipeline.verified_rows(record))
    lines += _section("What one more pending request costs", pipeline.cost_rows(record.growth))
    lines += _section("Steps", pipeline.step_rows(record))
    return "\n".join(lines) + "\n"


def _section(title: str, table: Rows) -> list[str]:
    """The last column is left out where it says nothing."""
    if not table.rows:
        return []
    words = any(row[-1] for row in table.rows)
    end = None if words else -1
    return [
        "",
        f"### {title}",
        "",
        *markdown_table(table.header[:end], [it[:end] for it in table.rows], left=1),
    ]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(escaped(cell) for cell in cells) + " |"

    rule = "|" + "|".join(":--" if index < left else "--:" for index in range(len(header))) + "|"
    return [row(header), rule, *map(row, rows)]


def escaped(text: str) -> str:
    """A stranger's text in Markdown: no markup, no HTML, no cell that ends early."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", fmt.printable(text, limit=400))


def in_code(text: str) -> str:
    return fmt.printable(text).replace("`", "'")
