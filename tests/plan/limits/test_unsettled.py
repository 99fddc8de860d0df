"""What a connection costs by looks at ramps on which the server lags, and by start and plateau."""

from collections.abc import Mapping
from typing import Literal

import pytest

from connprobe.model import Reading
from connprobe.plan.limits.unsettled import Held, of_hold


def reading(
    connections: int, use: Mapping[str, float], stage: Literal["start", "ramp", "idle"] = "ramp"
) -> Reading:
    return Reading(stage=stage, at_s=0.0, connections=connections, settled=False, use=dict(use))


def server(connections: int, *, fds_each: int = 1, garbage: float = 0.0) -> dict[str, float]:
    """20 descriptors and 50 MB of its own, 10 kB a connection, and 8 kB in the kernel."""
    fds, rss = 20 + fds_each * connections, 50e6 + 10_000 * connections + garbage
    return {
        "fds": fds,
        "process_fds": fds,
        "threads": 7,
        "rss_bytes": rss,
        "kernel_bytes": 8_000.0 * connections,
        "memory_bytes": rss - 50e6 + 8_000 * connections,
    }


def look(connections: int, **more: float) -> dict[str, float]:
    """Slabs are not read at a look."""
    slabs = ("kernel_bytes", "memory_bytes")
    return {metric: value for metric, value in server(connections).items() if metric not in slabs} | more


def held(number: int, looks: list[dict[str, float]], **more: float) -> Held:
    start = reading(0, server(0), "start")
    return of_hold(start, looks, reading(number, server(number) | more, "idle"), [])


def test_looks_count_by_what_the_server_had_itself() -> None:
    """The client had opened all 3,000 by the first of them: only the server's descriptors tell."""
    found = held(3000, [look(each) for each in (396, 771, 1306, 2200)])
    memory = found.growth["rss_bytes"]
    assert (memory.first, memory.last, memory.readings) == (396, 3000, 5)
    assert memory.per_connection == pytest.approx(10_000)
    assert memory.low == pytest.approx(memory.high, rel=0.01)
    assert found.growth["memory_bytes"].per_connection == pytest.approx(18_000)
    assert not found.unknown


def test_two_descriptors_a_connection() -> None:
    looks = [server(each, fds_each=2) for each in (500, 1000, 1500)]
    start, idle = reading(0, server(0, fds_each=2)), reading(2000, server(2000, fds_each=2))
    growth = of_hold(start, looks, idle, []).growth
    assert [growth["rss_bytes"].first, growth["rss_bytes"].last] == [500, 2000]
    assert growth["process_fds"].per_connection == 2


def test_whole_numbers_are_known_to_the_letter_from_start_and_plateau() -> None:
    fds = held(3000, []).growth["process_fds"]
    assert (fds.per_connection, fds.low, fds.high, fds.base) == (1, 1, 1, 20)


def test_a_log_that_was_opened_meanwhile_is_no_connection() -> None:
    fds = held(3000, [], process_fds=20 + 3000 + 3).growth["process_fds"]
    assert (fds.per_connection, fds.base) == (1, 23)
    assert fds.low < 1 < fds.high
    assert fds.high - 1 == pytest.approx(0.001)


def test_what_does_not_grow_is_flat() -> None:
    assert held(3000, []).growth["threads"].shape == "flat"
    assert held(3000, [], threads=11).growth["threads"].shape == "flat"  # a pool that started


def test_threads_of_others_are_not_the_connections() -> None:
    start, idle = (
        reading(number, server(number) | {"threads": 7 + number, "host_threads": host})
        for number, host in ((0, 800), (100, 917))
    )
    threads = of_hold(start, [], idle, []).growth["host_threads"]
    assert (threads.per_connection, threads.low, threads.high, threads.base) == (1, 1, 1, 817)


def test_files_of_others_are_not_the_connections() -> None:
    start, idle = reading(0, server(0) | {"files": 3000}), reading(1000, server(1000) | {"files": 5600})
    for ends in (1, 2):
        files = of_hold(start, [], idle, [], ends=ends).growth["files"]
        assert (files.per_connection, files.low, files.high) == (ends, ends, ends)
        assert files.base == 5600 - ends * 1000


def test_the_fullest_of_several_processes_is_fitted() -> None:
    """Connections are dealt out by hash: the fullest of two has half of them, and some."""
    shares = {400: 209, 800: 411, 1200: 621, 1600: 812}
    looks = [look(number, process_fds=20 + most) for number, most in shares.items()]
    fds = held(2000, looks, process_fds=20 + 1018).growth["process_fds"]
    assert fds.per_connection == pytest.approx(0.505, abs=0.01)
    assert fds.low < 0.505 < fds.high


def test_descriptors_by_which_connections_are_counted_prove_nothing() -> None:
    """1.3 for each connection, all in one process: they fit themselves, whatever they are."""
    looks = [look(0, fds=20 + 1.3 * each, process_fds=20 + 1.3 * each) for each in (500, 1000, 1500)]
    growth = held(2000, looks, fds=2620, process_fds=2620).growth
    assert "process_fds" not in growth
    assert "fds" not in growth
    assert "rss_bytes" in growth


def test_without_a_count_of_descriptors_memory_is_not_told() -> None:
    def without(use: dict[str, float]) -> dict[str, float]:
        return {metric: value for metric, value in use.items() if "fds" not in metric}

    start, idle = reading(0, without(server(0))), reading(3000, without(server(3000)))
    found = of_hold(start, [without(look(1000)), without(look(2000))], idle, [])
    assert "rss_bytes" not in found.growth
    assert "Linux 6.2" in found.unknown["ramp"]


def test_memory_that_moves_on_the_plateau_widens() -> None:
    start, idle = reading(0, server(0)), reading(3000, server(3000))
    assert of_hold(start, [], idle, [80e6, 80e6]).off.get("rss_bytes", 0) == 0
    assert of_hold(start, [], idle, [80e6, 83e6, 81e6]).off["rss_bytes"] == 3e6
