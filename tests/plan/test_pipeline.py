"""The bound of memory, a server that stopped reading against one that is busy, and the sentence."""

from itertools import count

import pytest

from connprobe.model import Ended, Growth, Limit
from connprobe.plan.pipeline import StoppedReading, budget, each, headline, memory_bound
from made import a_limit

GB = 10**9


def growth(cost: float, half: float, metric: str = "heap_bytes") -> Growth:
    return Growth(
        metric=metric,
        unit="bytes",
        base=4e6,
        base_low=3e6,
        base_high=5e6,
        per_connection=cost,
        low=cost - half,
        high=cost + half,
        residual=1e4,
        readings=5,
        first=80_000,
        last=400_000,
        center=240_000,
    )


HEAP = a_limit(
    "heap",
    1_108_000,
    1_081_000,
    1_135_000,
    capacity=1.7e9,
    per_connection=1530,
    unit="bytes",
    source="v8.getHeapStatistics()",
    beyond=2.8,
)


def say(
    ended: Ended = "count",
    cost: Growth | None = None,
    limits: tuple[Limit, ...] = (),
    answered: int = 0,
    pending: int = 400_000,
) -> str:
    found = {} if cost is None else {cost.metric: cost}
    return headline(
        ended=ended,
        ended_by="the server died: exit status 7",
        pending=pending,
        pending_most=400_000,
        received=400_000,
        answered=answered,
        growth=found,
        limits=limits,
        bound=None,
    )


def test_a_bound_that_was_asked_for_is_kept_whatever_is_left() -> None:
    assert memory_bound(GB, 100, 10, 5) == (GB, "--memory-bound")


def test_half_of_what_is_left_comes_on_top_of_what_the_server_has() -> None:
    assert memory_bound(None, 24 * GB, None, GB).bytes == 13 * GB
    of_host = memory_bound(None, 4 * GB, 20 * GB, 0)
    assert of_host.bytes == 2 * GB
    assert "MemAvailable" in of_host.source
    of_cgroup = memory_bound(None, 24 * GB, 2 * GB, GB)
    assert of_cgroup.bytes == 2 * GB
    assert "cgroup" in of_cgroup.source


def stops_at(read: list[int], cpu_share: float, waiting: bool = True, most_s: float = 30.0) -> float | None:
    """When it is said to have stopped, looked at ten times a second; read: bytes, the last one for ever."""
    stopped = StoppedReading(most_s)
    for tick in count():
        if tick > 1000:
            return None
        now = tick / 10
        if stopped.feed(now, read[min(tick, len(read) - 1)], waiting, now * cpu_share):
            return now
    raise AssertionError


def test_one_that_is_quiet_and_reads_nothing_has_stopped() -> None:
    assert stops_at([100], cpu_share=0.0) == 3.0
    assert stops_at([100, 200, 300], cpu_share=0.04) == 3.2


def test_one_that_is_busy_is_waited_for_but_not_for_ever() -> None:
    assert stops_at([100], cpu_share=0.9) == 30.0
    assert stops_at([100], cpu_share=0.9, most_s=1.0) == 1.0


def test_one_that_has_nothing_to_read_has_not_stopped() -> None:
    assert stops_at([100], cpu_share=0.0, waiting=False) is None


def test_the_schedule_goes_on_while_nothing_is_read() -> None:
    assert budget(None, 0.0, 10**9) > 10**15
    assert budget(500, 0.0, 0) == 1
    assert budget(500, 2.0, 400) == 601
    assert budget(500, 2.0, 5000) == 0


@pytest.mark.parametrize(
    ("cost", "half", "said"),
    [
        (1530, 31, "1,530 B (1,499 to 1,561)"),
        (1534, 240, "1,530 B (1,290 to 1,770)"),
        (1507.6, 0.4, "1,507.6 B (1,507.2 to 1,508.0)"),
        (1507, 0, "1,507.0 B (1,507.0 to 1,507.0)"),
        (12_600, 1_200, "12.6 kB (11.4 to 13.8)"),
        (3_000_000, 900_000, "3,000 kB (2,100 to 3,900)"),
    ],
)
def test_a_cost_has_no_more_digits_than_its_interval_justifies(cost: float, half: float, said: str) -> None:
    assert each(growth(cost, half)) == said


def test_the_sentence_has_what_was_held_what_each_takes_and_where_it_ends() -> None:
    assert say(cost=growth(1530, 31), limits=(HEAP,)) == (
        "The server held 400,000 requests of one connection pending; each takes 1,530 B (1,499 to 1,561) of "
        "its heap; the V8 heap, 1.7 GB, would end at about 1,110,000 (1,080,000 to 1,140,000)."
    )


def test_without_a_heap_it_is_by_the_memory_of_the_process() -> None:
    said = say(cost=growth(1530, 31, "rss_bytes"))
    assert said.endswith("each takes 1,530 B (1,499 to 1,561) of its memory (RSS).")


def test_a_cost_that_may_be_none_is_not_told() -> None:
    said = say(cost=growth(30, 31))
    assert said.endswith("pending; what each takes of its heap is too little to be told.")


@pytest.mark.parametrize(
    ("ended", "answered", "said"),
    [
        ("stopped_reading", 0, "stopped reading after 400,000 requests of one connection: it bounds what is"),
        ("stopped_reading", 7, "requests of one connection, of which it answered 7: it bounds"),
        ("answered", 399_998, "does not wait: it answered 399,998 of 400,000 requests."),
        ("memory_bound", 0, "when its memory reached the bound."),
        ("died", 0, "pending, until the server died: exit status 7."),
        ("interrupted", 0, "when the run was interrupted."),
    ],
)
def test_what_ended_it_is_said(ended: Ended, answered: int, said: str) -> None:
    assert said in say(ended, answered=answered)


def test_a_death_between_two_looks_has_no_exact_number() -> None:
    assert say("died", pending=0) == (
        "The server held between 0 and 400,000 requests of one connection pending, until the server died: "
        "exit status 7."
    )
    assert "between 393,607 and 400,000 requests" in say("lost", pending=393_607)
