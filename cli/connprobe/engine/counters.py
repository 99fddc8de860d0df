"""The columns of a worker's row of shared counters, and how rows become totals."""

from typing import NamedTuple

from connprobe.causes import CAUSES
from connprobe.fleet.shared import SharedTable
from connprobe.plan.histogram import BUCKETS

STARTED = 0  # connections begun, without reconnections
ESTABLISHED = 1  # handshakes completed, without reconnections
HELD = 2  # alive now
IN_FLIGHT = 3
PINGS = 4
PONGS = 5
RECONNECT_ATTEMPTS = 6
RECONNECTED = 7
GIVEN_UP = 8
WAITING = 9  # lost connections that wait for their next attempt
BYTES_READ = 10
HANDSHAKE_SUM_US = 11
HANDSHAKE_MAX_US = 12
FAILED = 13
DROPPED = FAILED + len(CAUSES)
HANDSHAKES = DROPPED + len(CAUSES)
COLUMNS = HANDSHAKES + BUCKETS


class Totals(NamedTuple):
    """Sums over all workers at one moment."""

    started: int
    established: int
    held: int
    in_flight: int
    pings: int
    pongs: int
    reconnect_attempts: int
    reconnected: int
    given_up: int
    waiting: int
    bytes_read: int
    handshake_sum_us: int
    handshake_max_us: int
    failures: dict[str, int]
    drops: dict[str, int]

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


def read_totals(table: SharedTable, lost: dict[int, int]) -> Totals:
    """lost: worker index -> connections it was to open. What it held was dropped, what it had not opened failed."""
    plain = [table.total(column) for column in range(HANDSHAKE_MAX_US)]
    failures = {cause: table.total(FAILED + i) for i, cause in enumerate(CAUSES)}
    drops = {cause: table.total(DROPPED + i) for i, cause in enumerate(CAUSES)}
    for index, share in lost.items():
        row = table.row(index)
        held, failed = row[HELD], sum(row[FAILED : FAILED + len(CAUSES)])
        plain[HELD] -= held
        plain[IN_FLIGHT] -= row[IN_FLIGHT]
        plain[WAITING] -= row[WAITING]
        drops["worker_lost"] += held
        failures["worker_lost"] += share - row[ESTABLISHED] - failed
    return Totals(
        *plain,
        handshake_max_us=max(table.column(HANDSHAKE_MAX_US), default=0),
        failures={cause: count for cause, count in failures.items() if count},
        drops={cause: count for cause, count in drops.items() if count},
    )


def read_handshakes(table: SharedTable) -> list[int]:
    """The handshake histogram of all workers: BUCKETS counts."""
    rows = [table.row(index)[HANDSHAKES : HANDSHAKES + BUCKETS].tolist() for index in range(table.rows)]
    return [sum(column) for column in zip(*rows, strict=True)]
