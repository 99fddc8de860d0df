"""What `connprobe compare` found: one contestant under one load, and all of them beside each other."""

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, field

from connprobe.model.base import Record
from connprobe.model.host import HostRecord
from connprobe.model.kernel import Distribution
from connprobe.model.run import ServerFigures, Verdict
from connprobe.model.suite import Size, Suite

COMPARE_SCHEMA = "connprobe/compare/1"


class Turn(NamedTuple):
    """One bout to come. round: from 1."""

    workload: str
    size: int
    contestant: str
    round: int


class Others(Record, frozen=True):
    """CPU that processes of nobody's business here took during a bout (source: /proc/PID/stat).

    cpus: how many CPUs they kept busy on average. who: the busiest, "NAME (PID) 0.52".
    """

    cpus: float
    who: tuple[str, ...]


class Bout(Record, frozen=True):
    """One contestant, started for it alone, under one load.

    outcome: done: every connection did all it had to. missed: some did not. died: a process of the
    contestant or behind it ended during it. failed: it could not be started, or the load could not be run.
    """

    workload: str
    size: int
    contestant: str
    round: int
    outcome: Literal["done", "missed", "died", "failed"]
    said: str | None  # why it is not done
    started_at: str
    run: str | None  # its directory, below that of the comparison
    visited: int = 0
    failures: dict[str, int] = field(default_factory=dict)  # failed and dropped, by cause
    wrong: int = 0
    handshake_ms: Distribution | None = None
    message_ms: Distribution | None = None
    total_s: float | None = None
    connections_per_s: float | None = None
    server: ServerFigures | None = None  # all processes of the contestant, and of its counted backends
    server_pss_bytes: int | None = None  # of the same, after the last connection: shared pages count once
    client_cpu_s: float | None = None  # of its workers, over total_s
    overflows: int | None = None  # of its accept queues: there cannot have been more
    others: Others | None = None
    notes: tuple[str, ...] = ()  # on how it was started
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def turn(self) -> Turn:
        return Turn(self.workload, self.size, self.contestant, self.round)


class Spread(Record, frozen=True):
    """Of `count` values: the median, the least and the greatest."""

    median: float
    low: float
    high: float
    count: int


class Figure(Record, frozen=True):
    """values: over the rounds. ratios: to the control of the same round; None: there was none."""

    values: Spread | None
    ratios: Spread | None


class Standing(Record, frozen=True):
    """One contestant at one size of one workload, over the bouts that are done; the others are counted."""

    workload: str
    size: int
    contestant: str
    control: bool
    done: int
    bouts: int
    figures: dict[str, Figure]


class CompareRequest(Record, frozen=True):
    """What `connprobe compare` was asked for, whole enough to go on with it: files hold templates."""

    suite: Suite
    path: str  # of the suite file
    place: str  # its directory: ${suite}
    sizes: Annotated[tuple[Size, ...], Meta(min_length=1)]
    repeats: Annotated[int, Meta(ge=1, le=1000)]
    only: tuple[str, ...] = ()
    skip_missing: bool = False


class CompareRecord(Record, frozen=True, kw_only=True):
    """compare.json. Its JSON Schema is docs/compare.schema.json."""

    schema: str
    connprobe: str
    command: Literal["compare"]
    outcome: Literal["done", "missed", "interrupted"]
    started_at: str
    request: CompareRequest
    skipped: dict[str, str]  # contestants that could not take part, and why
    versions: dict[str, str]  # what each program says of itself
    turns: int  # bouts that were to be
    bouts: tuple[Bout, ...]
    standings: tuple[Standing, ...]
    host: HostRecord
    verdicts: tuple[Verdict, ...]
