from array import array

from connprobe import causes
from connprobe.engine import counters
from connprobe.engine.tally import MAX_DETAILS, MAX_LENGTH, Tally, printable


def test_details_are_short_and_few_and_obeyed_by_no_terminal() -> None:
    tally = Tally(memoryview(array("Q", bytes(8 * counters.COLUMNS))))
    for number in range(97):
        tally.drop(causes.REJECTED, f"{number} " + "\x1b[2J\x9b31m" + "x" * 60_000)
    (details,) = tally.drop_details.values()
    assert len(details) == MAX_DETAILS + 1
    assert sum(details.values()) == 97
    assert all(len(detail) <= MAX_LENGTH and detail.isprintable() for detail in details)
    assert printable("503 Überfüllt") == "503 Überfüllt"


def test_losses_are_seen_with_the_count_they_change() -> None:
    """A worker that is killed in between leaves a row that adds up."""
    row = memoryview(array("Q", bytes(8 * counters.COLUMNS)))
    tally = Tally(row)
    tally.failure(causes.REFUSED, "")
    tally.drop(causes.EOF, "")
    assert not any(row)
    tally.publish()
    assert row[counters.FAILED + causes.INDEX[causes.REFUSED]] == 1
    assert row[counters.DROPPED + causes.INDEX[causes.EOF]] == 1
