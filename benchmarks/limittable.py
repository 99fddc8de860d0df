"""The table of predicted and true limits, apart from the runs, so that it can be tested alone."""

from collections.abc import Sequence
from statistics import median

import msgspec

from connprobe.model import Limit, RunRecord
from connprobe.plan.limits.verify import is_of_server

GOAL = 0.03  # of the true limit
BUSY = 0.1  # CPUs that others took: more is said


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one case. failure: why there is no truth; then figures are None that were not reached."""

    case: str
    round: int
    count: int
    expected: str  # the resource that is configured to bind
    commit: str
    at: str  # UTC, when it began
    wall_s: float
    others_cpus: float  # CPUs that the rest of the machine took meanwhile
    predicted: int | None = None
    low: int | None = None
    high: int | None = None
    binds: str | None = None  # predicted
    true: int | None = None
    ended: str | None = None  # the resource that was at its end
    cause: str | None = None
    failure: str | None = None
    run: str | None = None  # its directory

    @property
    def error(self) -> float | None:
        """Predicted over true, less one."""
        if self.predicted is None or not self.true:
            return None
        return (self.predicted - self.true) / self.true

    @property
    def inside(self) -> bool | None:
        if self.true is None or self.low is None or self.high is None:
            return None
        return self.low <= self.true <= self.high

    @property
    def named(self) -> bool:
        """Both the prediction and what was seen at the end name what was configured to bind."""
        return self.binds == self.ended == self.expected


class Found(msgspec.Struct, frozen=True):
    """What a run record says of its one trial."""

    first: Limit | None
    true: int | None
    ended: str | None
    cause: str | None
    failure: str | None


def found(record: RunRecord) -> Found:
    """A truth only where the server broke, and not before it was measured."""
    trial = record.trials[-1] if record.trials else None
    first = next((limit for limit in trial.limits if is_of_server(limit)), None) if trial else None
    verified = trial.verified if trial else None
    failure = None
    if record.outcome == "interrupted":
        failure = "interrupted"
    elif trial is not None and trial.broken is not None:
        failure = f"it broke while it was measured: {trial.broken}"
    elif verified is None:
        failure = "it was not verified"
    elif verified.side != "server":
        failure = f"not the server's end: {verified.cause}"
    elif first is None:
        failure = "no limit was predicted"
    if verified is None:
        return Found(first, None, None, None, failure)
    true = verified.connections if verified.side == "server" else None
    return Found(first, true, verified.resource, verified.cause, failure)


def table(rows: Sequence[Row], order: Sequence[str]) -> str:
    """Markdown: a line for each run, by case and round."""
    lines = [
        "| case | measured with | predicted | 95 % | true | error | inside | predicted to bind | "
        "at its end | what broke first |",
        "|---|---:|---:|---:|---:|---:|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (order.index(row.case), row.round)):
        error = "-" if row.error is None else f"{row.error:+.1%}".replace("%", " %")
        interval = "-" if row.low is None or row.high is None else f"{row.low:,} to {row.high:,}"
        inside = {True: "yes", False: "**no**", None: "-"}[row.inside]
        cells = (
            row.case,
            f"{row.count:,}",
            _number(row.predicted),
            interval,
            _number(row.true),
            f"**{error}**" if row.error is not None and abs(row.error) > GOAL else error,
            inside,
            _resource(row.binds, row.expected),
            _resource(row.ended, row.expected),
            f"**no truth**: {row.failure}" if row.failure else row.cause or "-",
        )
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def summary(rows: Sequence[Row], wall_s: float) -> str:
    """What all runs together say, as a Markdown list."""
    good = [row for row in rows if not row.failure]
    errors = [abs(row.error) for row in good if row.error is not None]
    insides = [row.inside for row in good if row.inside is not None]
    wrong = [row for row in good if not row.named]
    lines = [f"- {len(rows)} runs of {len({row.case for row in rows})} cases."]
    if errors:
        over = sum(error > GOAL for error in errors)
        lines.append(
            f"- Error: worst {max(errors):.1%}, median {median(errors):.2%}; "
            f"{over} of {len(errors)} above {GOAL:.0%}."
        )
    if insides:
        share = sum(insides) / len(insides)
        lines.append(f"- Inside the 95 % interval: {sum(insides)} of {len(insides)} ({share:.0%}).")
    lines.append(f"- A resource named wrongly, predicted or at the end: {len(wrong)} of {len(good)}.")
    lines.append(f"- Runs without a truth: {len(rows) - len(good)}.")
    counts = [row.count / row.true for row in good if row.true]
    if counts:
        lines.append(f"- Predicted from {min(counts):.0%} to {max(counts):.0%} of the true limit.")
    walls = [row.wall_s for row in rows]
    lines.append(
        f"- Time: {wall_s / 60:.0f} minutes in all; a run {median(walls):.0f} s, {max(walls):.0f} s at most."
    )
    busy = [row.others_cpus for row in rows if row.others_cpus > BUSY]
    if busy:
        lines.append(
            f"- Other work ran beside {len(busy)} of the runs: it took {median(busy):.1f} CPUs, "
            f"{max(busy):.1f} at most."
        )
    return "\n".join(lines)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _resource(name: str | None, expected: str) -> str:
    return name or "not known" if name == expected else f"**{name or 'not known'}**"
