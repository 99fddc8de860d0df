"""What a connection costs beside somebody else's connections, which come and go."""

import pytest

from connprobe.model import Reading
from connprobe.plan.limits.looks import MOST_LOOKS, Looks


def look(connections: int, **more: float) -> dict[str, float]:
    """20 descriptors and 50 MB of its own, 10 kB a connection."""
    fds = 20.0 + connections
    return {"process_fds": fds, "threads": 7, "rss_bytes": 50e6 + 10_000 * connections} | more


def reading(connections: int, use: dict[str, float]) -> Reading:
    return Reading(stage="ramp", at_s=0.0, connections=connections, settled=False, use=use)


def watched(counts: list[int], **off: float) -> Looks:
    looks = Looks()
    for number in counts:
        looks.add(reading(number, look(number, **off)))
    return looks


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([], "no two readings"),
        ([100], "no two readings"),
        ([100] * 9, "100 connections all the time"),
        ([90, 100, 110, 95], "varied between 90 and 110: too little"),
        ([0, 3, 7], "varied between 0 and 7: too little"),
    ],
)
def test_connections_that_hardly_vary_tell_nothing(counts: list[int], said: str) -> None:
    looks = watched(counts)
    assert said in (looks.too_alike or "")
    assert not looks.growths()


def test_what_a_connection_of_somebody_else_costs() -> None:
    looks = watched([0, 0, 40, 80, 120, 160, 200, 200, 200])
    assert looks.too_alike is None
    growth = looks.growths()
    assert growth["process_fds"].per_connection == 1
    assert growth["process_fds"].base == 20
    assert growth["rss_bytes"].per_connection == pytest.approx(10_000)


def test_readings_while_connections_came_are_off_and_those_at_rest_are_not() -> None:
    """The descriptors were read a moment after the connections, when 3 more had come."""
    looks = Looks()
    for number in (0, 0, *range(100, 1000, 100), 1000, 1000):
        late = 3 if 0 < number < 1000 else 0
        looks.add(reading(number, look(number, process_fds=20.0 + number + late)))
    fds = looks.growths()["process_fds"]
    assert (fds.per_connection, fds.base, fds.base_low, fds.base_high) == (1, 20, 20, 20)


def test_memory_that_a_process_keeps_is_not_taken_for_cheap_connections() -> None:
    """Connections go and come again: memory stays where it was at the most of them."""
    looks, most = Looks(), 0
    for number in (0, 100, 200, 300, 400, 300, 200, 100, 0, 100, 200, 300, 400, 500, 600, 600):
        most = max(most, number)
        looks.add(reading(number, look(number, rss_bytes=50e6 + 10_000 * most)))
    assert looks.growths()["rss_bytes"].per_connection == pytest.approx(10_000)


def test_a_long_watch_stays_small() -> None:
    counts = [step * step % 100_003 for step in range(10_007)]
    looks = watched(counts)
    assert looks.most == max(counts)
    assert len(looks._calm) <= MOST_LOOKS + 1
    assert len(looks._rising) <= MOST_LOOKS + 1
