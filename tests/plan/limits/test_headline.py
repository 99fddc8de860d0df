import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from connprobe.model import LeftOut, Limit, Verified
from connprobe.plan.limits.headline import broke, headline, rounded, unread
from connprobe.plan.limits.limits import MOST
from connprobe.plan.limits.resources import NAMES, capacity, name
from made import a_limit

HEAP = a_limit(
    "heap",
    16_930,
    16_371,
    17_480,
    capacity=80 << 20,
    per_connection=4733,
    unit="bytes",
    source="heap_size_limit of the V8 inspector",
)
FDS = a_limit("nofile", 20_000, capacity=20_023)
PORTS = replace(FDS, resource="source_ports", scope="client", capacity=28_232)


def shifted(limit: Limit, connections: int, width: int = 0) -> Limit:
    return replace(limit, connections=connections, low=connections - width, high=connections + width)


def test_what_stops_it_and_what_comes_next() -> None:
    assert headline([HEAP, FDS], 4000) == (
        "This server stops at about 16,900 connections (16,300 to 17,500): the V8 heap, 80 MB. "
        "Next: file descriptors at 20,000."
    )


def test_a_count_is_not_about() -> None:
    assert headline([FDS], 4000) == "This server stops at 20,000 connections: file descriptors, 20,023."
    assert headline([], 4000) is None


def test_two_that_are_too_close_to_tell() -> None:
    close = shifted(FDS, 17_100)
    assert headline([HEAP, close, PORTS], 4000) == (
        "This server stops at about 16,900 connections (16,300 to 17,500): the V8 heap, 80 MB; or first at "
        "file descriptors, 20,023, 17,100: the two are too close to tell. Next: the client's source ports at "
        "20,000."
    )


def test_the_clients_limit_is_not_the_servers() -> None:
    assert headline([shifted(PORTS, 10_000), HEAP], 4000) == (
        "This client, not the server, stops at 10,000 connections: source ports, 28,232. "
        "The server would at about 16,900 connections (16,300 to 17,500): the V8 heap, 80 MB."
    )
    assert headline([PORTS], 4000) == (
        "This client, not the server, stops at 20,000 connections: source ports, 28,232."
    )


def test_what_is_not_known_may_end_first() -> None:
    heap = LeftOut(
        resource="heap",
        scope="server (pid 7)",
        capacity=80 << 20,
        reason="does not grow measurably",
        not_before=4321,
        source="the V8 inspector",
    )
    beside = [
        replace(heap, resource="nofile", not_before=None),
        replace(heap, resource="threads", not_before=20_001),
        replace(heap, resource="memory", never=True, not_before=None),
        replace(heap, resource="source_ports", scope="client"),
    ]
    assert headline([FDS], 4000, unread=unread([heap, *beside], [FDS])) == (
        "This server stops at the latest at 20,000 connections: file descriptors, 20,023. Not measured, and "
        "perhaps sooner: the V8 heap (room for at least 4,321), file descriptors."
    )
    assert unread(beside[1:], [FDS]) is None


def test_a_count_beyond_what_was_held_has_an_end_that_is_known() -> None:
    far = replace(FDS, connections=19_977, low=13_456, high=19_977)
    assert rounded(far) == (19_977, 13_000, 19_977)
    assert headline([far], 1000) == (
        "This server stops at 19,977 connections (13,000 at the least): file descriptors, 20,023. "
        "That is over 10 times the 1,000 that were held: a guess."
    )


def test_a_far_guess_is_said() -> None:
    text = headline([shifted(HEAP, 358_417, 61_000)], 4000)
    assert text is not None
    assert "about 360,000 connections (290,000 to 420,000)" in text
    assert text.endswith("That is over 10 times the 4,000 that were held: a guess.")
    exact = headline([FDS], 100)
    assert exact is not None
    assert exact.endswith("That is over 10 times the 100 that were held.")


def test_traffic_does_not_stop_what_is_held() -> None:
    cpu = replace(FDS, resource="cpu", connections=10, low=10, high=10)
    assert headline([cpu], 4) is None
    assert headline([cpu, HEAP], 4000) == headline([HEAP], 4000)


@given(st.integers(0, 10**9), st.integers(0, 10**8), st.integers(0, 10**8))
def test_rounding_never_narrows(connections: int, below: int, above: int) -> None:
    limit = replace(HEAP, connections=connections, low=max(0, connections - below), high=connections + above)
    number, low, high = rounded(limit)
    assert 0 <= low <= limit.low
    assert low <= number <= high
    assert high >= limit.high
    width = max(connections - limit.low, above)
    assert abs(number - connections) <= width
    assert high - low <= 4 * width + 1
    assert (number > 0) == (connections > 0)


def test_an_interval_wider_than_the_figure_leaves_it_a_digit() -> None:
    memory = replace(HEAP, resource="memory", connections=1_665_777, low=0, high=12_345_678)
    assert rounded(memory) == (2_000_000, 0, 20_000_000)


def test_an_interval_without_an_end_takes_no_digit_from_the_other_side() -> None:
    cpu = replace(HEAP, connections=15_384, low=7_340, high=MOST)
    assert rounded(cpu) == (15_000, 7_000, MOST)
    text = headline([cpu], 4000)
    assert text is not None
    assert "about 15,000 connections (7,000 or more)" in text


@pytest.mark.parametrize(
    ("unit", "figure", "text"),
    [
        ("bytes", 80 << 20, "80 MB"),
        ("bytes", 64 << 20, "64 MB"),
        ("bytes", 1536 << 20, "1,536 MB"),
        ("bytes", 1.7e9, "1.7 GB"),
        ("bytes", 24_853_491_712, "24.9 GB"),
        ("bytes", 100, "100 B"),
        ("count", 20_000, "20,000"),
        ("connections", 3000, "3,000"),
    ],
)
def test_capacities_are_written_as_they_are_set(unit: str, figure: float, text: str) -> None:
    assert capacity(replace(HEAP, unit=unit, capacity=figure)) == text


def test_names() -> None:
    assert name(replace(HEAP, source="jstat -gc")) == "the Java heap"
    assert name(replace(HEAP, source="--heap-limit")) == "the heap"
    assert name(replace(HEAP, resource="some_thing")) == "some thing"
    asked = "nofile nr_open file_max cgroup_memory memory heap epoll_watches threads conntrack server_config"
    assert {*asked.split(), "source_ports", "accept_queue", "cpu", "max_map_count"} == NAMES.keys()


def test_what_may_be_an_idle_timeout_is_not_called_a_limit_alone() -> None:
    def broken(resource: str | None, cause: str) -> str:
        return broke(Verified(connections=80, resource=resource, cause=cause, side="server"), ())

    said = broken(None, "it closed connections (40, eof)")
    assert said.startswith("It broke at 80 connections: it closed connections (40, eof). Where it closes")
    assert said.endswith("raise its idle timeout.")
    assert broken("threads", "it closed connections (40, eof)").endswith("(40, eof).")
    assert broken(None, "it refused connections (40, refused)").endswith("(40, refused).")
