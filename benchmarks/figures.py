"""The arithmetic of the benchmarks, apart from the processes they start, so that it can be tested alone."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

PAIRS = {
    "floor": "C client, C server",
    "client": "connprobe hold --no-bpf, C server",
    "hold": "connprobe hold, C server",
    "serve": "C client, connprobe serve",
}
RATE_GOALS_FROM = 19_000  # smaller ramps are over before a rate means much, and have no goal
SIZE_GOALS_FROM = 400_000  # nor has memory per connection where the interpreters are most of it


@dataclass(frozen=True)
class Ramp:
    """One ramp, of either client. Bytes are PSS: of the workers alone, and of the whole command."""

    count: int
    ramp_s: float
    workers: int
    workers_pss_bytes: float
    pss_bytes: float

    @property
    def per_s(self) -> float:
        return self.count / self.ramp_s

    @property
    def cost_us(self) -> float:
        return self.ramp_s / self.count * 1e6


@dataclass(frozen=True)
class Row:
    """One line of the table. `least` or `most` is the goal, in the unit of `values`; neither: no goal."""

    what: str
    values: tuple[float, ...]
    unit: str = ""
    digits: int = 0
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Of the median. None where there is no goal."""
        middle = median(self.values)
        if self.least is not None:
            return middle >= self.least
        return None if self.most is None else middle <= self.most


def from_floor(line: str) -> Ramp:
    """The one line of JSON that floor/client prints."""
    run = json.loads(line)
    return Ramp(run["count"], run["ramp_s"], run["workers"], run["pss_bytes"], run["pss_bytes"])


def from_run(record: str) -> Ramp:
    """What `connprobe hold --json` prints. Raises ValueError where not all are held, or memory is unknown."""
    run = json.loads(record)
    asked, held = run["requested"], run["held"]
    if (held, run["failed"], run["dropped"]) != (asked, 0, 0):
        raise ValueError(f"{held} of {asked} held; failed: {run['failures']}, dropped: {run['drops']}")
    client = run["client"]
    each = client["workers_pss_bytes_per_connection"]
    if each is None or client["pss_bytes"] is None:
        raise ValueError(f"memory of the client was not measured: {run.get('unknown')}")
    return Ramp(held, run["ramp_s"], client["workers"], each * held, client["pss_bytes"])


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Each measurement over the one taken beside it, so that what slowed both cancels out."""
    return tuple(a / b for a, b in zip(above, below, strict=True))


def marginal_bytes(small: Ramp, large: Ramp) -> float:
    """Bytes that one more connection costs: the slope between two sizes held by as many workers."""
    if small.workers != large.workers or small.count >= large.count:
        raise ValueError(f"not comparable: {small} and {large}")
    return (large.workers_pss_bytes - small.workers_pss_bytes) / (large.count - small.count)


def sockets_in_use(sockstat: str) -> int:
    """TCP sockets in use, orphaned or in TIME_WAIT, from the text of /proc/net/sockstat."""
    words = next(line for line in sockstat.splitlines() if line.startswith("TCP:")).split()[1:]
    named = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    return named["inuse"] + named["orphan"] + named["tw"]


def memory_taken_bytes(samples: Iterable[str]) -> int:
    """How far MemAvailable fell below its first reading, from the lines of samples.jsonl."""
    available = [json.loads(line)["memory_available_bytes"] for line in samples]
    return int(available[0] - min(available))


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The names whose value differs, or that are on one side alone."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def ramp_rows(
    seen: dict[tuple[str, int], list[list[Ramp]]], sizes: Sequence[int], spread: dict[str, list[list[Ramp]]]
) -> list[Row]:
    """The lines on ramps. `seen` has for each of PAIRS and each size a list per round, in the order taken.

    spread: the same of the smallest size, with as many processes of the server, and of the C client, as the
    largest has. May be empty.
    """
    rows = []
    for size in sizes:
        flat = {pair: [ramp for turn in seen[pair, size] for ramp in turn] for pair in PAIRS}
        rate = {pair: tuple(ramp.per_s for ramp in flat[pair]) for pair in PAIRS}
        for pair, what in PAIRS.items():
            rows.append(rates(f"{size:,}: {what}", flat[pair]))
        over = {pair: ratios(rate[pair], rate["floor"]) for pair in PAIRS}
        goals = (0.95, 0.9) if size >= RATE_GOALS_FROM else (None, None)
        for pair, what, least in (
            ("client", "hold --no-bpf over C client", goals[0]),
            ("hold", "hold over C client", goals[0]),
            ("serve", "serve over C server", goals[1]),
        ):
            rows.append(Row(f"{size:,}: rate, connprobe {what}", over[pair], digits=3, least=least))

    smallest, largest = min(sizes), max(sizes)
    judged = largest >= SIZE_GOALS_FROM
    held = [ramp for turn in seen["hold", largest] for ramp in turn]
    workers_each = tuple(ramp.workers_pss_bytes / ramp.count for ramp in held)
    each = tuple(ramp.pss_bytes / ramp.count for ramp in held)
    what = f"{largest:,}: PSS per connection"
    rows.append(Row(f"{what}, workers", workers_each, "B", 1, most=90 if judged else None))
    rows.append(Row(f"{what}, whole command", each, "B", 1, most=200 if judged else None))
    beside = f"with the server processes of {largest:,}"
    for pair, turns in spread.items():
        flat_turns = [ramp for turn in turns for ramp in turn]
        rows.append(rates(f"{smallest:,}, {beside}: {PAIRS[pair]}", flat_turns))
    if smallest < largest:
        what = f"cost of a connection at {largest:,} over {smallest:,}"
        for pair, who, most in (
            ("client", "connprobe hold --no-bpf", 1.15),
            ("hold", "connprobe hold", 1.15),
            ("floor", "C client", None),
        ):
            for small, condition in ((seen[pair, smallest], ""), (spread.get(pair), f", {beside}")):
                if small is not None:
                    grew = growth(small, seen[pair, largest])
                    rows.append(
                        Row(f"{what}{condition}, {who}", grew, digits=3, most=most if judged else None)
                    )
    return rows


def rates(what: str, seen: Sequence[Ramp]) -> Row:
    workers = " or ".join(str(n) for n in sorted({ramp.workers for ramp in seen}))
    return Row(what, tuple(ramp.per_s for ramp in seen), "/s", note=f"client workers: {workers}")


def growth(small: Sequence[Sequence[Ramp]], large: Sequence[Sequence[Ramp]]) -> tuple[float, ...]:
    """For each round, the cost of a connection at the large size over that at the small one."""
    cost = [[median(ramp.cost_us for ramp in turn) for turn in turns] for turns in (large, small)]
    return ratios(*cost)


def table(rows: Iterable[Row]) -> str:
    """A Markdown table: median, spread, goal, and whether it was met."""
    lines = ["| measured | median | min to max | n | goal | met |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        shown = [
            f"{value:,.{row.digits}f}" for value in (median(row.values), min(row.values), max(row.values))
        ]
        unit = f" {row.unit}" if row.unit else ""
        goal = (
            f">= {row.least:g}" if row.least is not None else "" if row.most is None else f"<= {row.most:g}"
        )
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        what = f"{row.what} ({row.note})" if row.note else row.what
        cells = (what, shown[0] + unit, f"{shown[1]} to {shown[2]}", str(len(row.values)), goal, met)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def replace_block(text: str, block: str, name: str = "figures") -> str:
    """Puts `block` between the two markers. Raises ValueError where they are missing or out of order."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"expected {first} and then {last}")
    return f"{head}{first}\n\n{block}\n\n{last}{tail}"
