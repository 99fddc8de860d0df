"""What one worker counts: numbers for its row of shared memory, words for its last message."""

from array import array
from collections import Counter

from connprobe.causes import CAUSES, INDEX
from connprobe.engine import counters
from connprobe.plan.histogram import BUCKETS, bucket

MAX_DETAILS, MAX_LENGTH = 20, 120  # so that the last message fits a socket, whatever a server says
Details = dict[str, dict[str, int]]  # cause -> what exactly was seen -> how often


class Tally:
    def __init__(self, row: memoryview) -> None:
        self.started = self.established = self.failed = 0
        self.reconnect_attempts = self.reconnected = self.given_up = 0
        self.took_us: list[int] = []  # handshakes of this turn, in microseconds
        self.failure_details: Details = {}
        self.drop_details: Details = {}
        self._row = row
        self._lost = array("Q", bytes(8 * 2 * len(CAUSES)))  # failures by cause, then drops
        self._handshakes = array("Q", bytes(8 * BUCKETS))
        self._handshake_sum_us = self._handshake_max_us = 0
        self.messages_sent = self.messages_answered = self.messages_wrong = 0
        self._messages = array("Q")  # BUCKETS of them with the first message
        self._message_sum_us = self._message_max_us = 0

    def count_handshakes(self) -> None:
        """Those of this turn."""
        for value, times in Counter(self.took_us).items() if self.took_us else ():
            self.handshakes(value, times)
        self.took_us.clear()

    def handshakes(self, took_us: int, times: int) -> None:
        """So many that took so long: those of one burst are answered at the same moment."""
        self._handshakes[bucket(took_us)] += times
        self._handshake_sum_us += took_us * times
        self._handshake_max_us = max(self._handshake_max_us, took_us)

    def message(self, took_us: int) -> None:
        """One that was answered as it had to be."""
        if not self._messages:
            self._messages = array("Q", bytes(8 * BUCKETS))
        self.messages_answered += 1
        self._messages[bucket(took_us)] += 1
        self._message_sum_us += took_us
        self._message_max_us = max(self._message_max_us, took_us)

    def failure(self, cause: str, detail: str) -> None:
        """A connection that was never established."""
        self.failed += 1
        self._lost[INDEX[cause]] += 1
        _count(self.failure_details, cause, detail)

    def drop(self, cause: str, detail: str) -> None:
        """An established connection that was lost."""
        self._lost[len(CAUSES) + INDEX[cause]] += 1
        _count(self.drop_details, cause, detail)

    def publish(self) -> None:
        """The counts that change with every turn of the loop."""
        row = self._row
        row[counters.STARTED] = self.started
        row[counters.FAILED : counters.HANDSHAKES] = memoryview(self._lost)
        row[counters.ESTABLISHED] = self.established
        row[counters.RECONNECT_ATTEMPTS] = self.reconnect_attempts
        row[counters.RECONNECTED] = self.reconnected
        row[counters.GIVEN_UP] = self.given_up
        row[counters.MESSAGES_SENT] = self.messages_sent
        row[counters.MESSAGES_ANSWERED] = self.messages_answered
        row[counters.MESSAGES_WRONG] = self.messages_wrong

    def publish_handshakes(self) -> None:
        """8 kB: now and then."""
        row = self._row
        row[counters.HANDSHAKES : counters.MESSAGES] = memoryview(self._handshakes)
        row[counters.HANDSHAKE_SUM_US] = self._handshake_sum_us
        row[counters.HANDSHAKE_MAX_US] = self._handshake_max_us

    def publish_messages(self) -> None:
        if self._messages:
            row = self._row
            row[counters.MESSAGES :] = memoryview(self._messages)
            row[counters.MESSAGE_SUM_US] = self._message_sum_us
            row[counters.MESSAGE_MAX_US] = self._message_max_us


def _count(details: Details, cause: str, detail: str) -> None:
    seen = details.setdefault(cause, {})
    detail = printable(detail)
    if detail not in seen and len(seen) >= MAX_DETAILS:
        detail = "others"
    seen[detail] = seen.get(detail, 0) + 1


def printable(detail: str) -> str:
    """Short, and without what a terminal would obey: parts of it may be a server's own words."""
    return "".join(char if char.isprintable() else "?" for char in detail[:MAX_LENGTH])
