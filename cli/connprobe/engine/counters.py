"""The columns of a worker's row of shared counters, and how rows become totals."""

from typing import NamedTuple

from connprobe.causes import CAUSES, WORKER_LOST
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
BEGAN_NS = 13  # CLOCK_MONOTONIC of the first connection begun
RAMPED_NS = 14  # and of the moment when the last of this worker's share was established or had failed
TICKED_NS = 15  # when the worker last looked at its clock: it does not hang
MESSAGES_SENT = 16
MESSAGES_ANSWERED = 17
MESSAGES_WRONG = 18  # answered, but not as it had to be
MESSAGE_SUM_US = 19
MESSAGE_MAX_US = 20
VISITED = 21  # connections that did all they had to, and were closed
SENT_BYTES = 22  # payload of TCP, once each, of connections that are over
RECEIVED_BYTES = 23
UNMEASURED = 24  # connections whose bytes this kernel does not tell
LATE_SUM_US = 25  # begun later than the rate had them begin
LATE_MAX_US = 26
RESUMED = 27  # TLS handshakes that took up an earlier session
CPU_NS = 28  # of this worker, from its first visit's beginning to its last one's end
RING_OPENED = 29  # connections that io_uring opened
GOAL = 30  # connections that are this worker's to open
FAILED = 31
DROPPED = FAILED + len(CAUSES)
HANDSHAKES = DROPPED + len(CAUSES)
MESSAGES = HANDSHAKES + BUCKETS
COLUMNS = MESSAGES + BUCKETS

_PLAIN = {
    "started": STARTED,
    "established": ESTABLISHED,
    "held": HELD,
    "in_flight": IN_FLIGHT,
    "pings": PINGS,
    "pongs": PONGS,
    "reconnect_attempts": RECONNECT_ATTEMPTS,
    "reconnected": RECONNECTED,
    "given_up": GIVEN_UP,
    "waiting": WAITING,
    "bytes_read": BYTES_READ,
    "handshake_sum_us": HANDSHAKE_SUM_US,
    "messages_sent": MESSAGES_SENT,
    "messages_answered": MESSAGES_ANSWERED,
    "messages_wrong": MESSAGES_WRONG,
    "message_sum_us": MESSAGE_SUM_US,
    "visited": VISITED,
    "sent_bytes": SENT_BYTES,
    "received_bytes": RECEIVED_BYTES,
    "unmeasured": UNMEASURED,
    "late_sum_us": LATE_SUM_US,
    "resumed": RESUMED,
    "cpu_ns": CPU_NS,
    "ring_opened": RING_OPENED,
}


class Totals(NamedTuple):
    """Sums over all workers at one moment."""

    started: int = 0
    established: int = 0
    held: int = 0
    in_flight: int = 0
    pings: int = 0
    pongs: int = 0
    reconnect_attempts: int = 0
    reconnected: int = 0
    given_up: int = 0
    waiting: int = 0
    bytes_read: int = 0
    handshake_sum_us: int = 0
    handshake_max_us: int = 0
    messages_sent: int = 0
    messages_answered: int = 0
    messages_wrong: int = 0
    message_sum_us: int = 0
    message_max_us: int = 0
    visited: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    unmeasured: int = 0
    late_sum_us: int = 0
    resumed: int = 0
    cpu_ns: int = 0
    ring_opened: int = 0
    late_max_us: int = 0
    failures: dict[str, int] = {}  # noqa: RUF012 never written
    drops: dict[str, int] = {}  # noqa: RUF012 never written

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


def read_totals(table: SharedTable, lost: dict[int, int]) -> Totals:
    """lost: worker index -> connections it was to open. Held ones count as dropped, the rest as failed."""
    plain = {name: table.total(column) for name, column in _PLAIN.items()}
    failures = {cause: table.total(FAILED + i) for i, cause in enumerate(CAUSES)}
    drops = {cause: table.total(DROPPED + i) for i, cause in enumerate(CAUSES)}
    for index, share in lost.items():
        row = table.row(index)
        held, failed = row[HELD], sum(row[FAILED : FAILED + len(CAUSES)])
        for name, column in (("held", HELD), ("in_flight", IN_FLIGHT), ("waiting", WAITING)):
            plain[name] -= row[column]
        drops[WORKER_LOST] += held
        failures[WORKER_LOST] += share - row[ESTABLISHED] - failed
    return Totals(
        **plain,
        handshake_max_us=max(table.column(HANDSHAKE_MAX_US), default=0),
        message_max_us=max(table.column(MESSAGE_MAX_US), default=0),
        late_max_us=max(table.column(LATE_MAX_US), default=0),
        failures={cause: count for cause, count in failures.items() if count},
        drops={cause: count for cause, count in drops.items() if count},
    )


def read_ramp_s(table: SharedTable, now_ns: int) -> float:
    """Seconds from the first connection begun to the last settled; until `now_ns` while some are not.

    Workers that were lost in the ramp never say when they were done; the others' last word counts then.
    """
    began = [at for at in table.column(BEGAN_NS) if at]
    ramped = [at for at in table.column(RAMPED_NS) if at]
    if not began:
        return 0.0
    return ((max(ramped) if len(ramped) == table.rows else now_ns) - min(began)) / 1e9


def read_handshakes(table: SharedTable) -> list[int]:
    """The handshake histogram of all workers: BUCKETS counts."""
    return _histogram(table, HANDSHAKES)


def read_messages(table: SharedTable) -> list[int]:
    """The histogram of messages that were answered, of all workers: BUCKETS counts."""
    return _histogram(table, MESSAGES)


def _histogram(table: SharedTable, first: int) -> list[int]:
    rows = [table.row(index)[first : first + BUCKETS].tolist() for index in range(table.rows)]
    return [sum(column) for column in zip(*rows, strict=True)]
