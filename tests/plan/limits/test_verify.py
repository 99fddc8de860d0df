"""What is said to have broken, by what was seen."""

from typing import Any

import pytest

from connprobe.model import Limit
from connprobe.plan.limits.verify import End, verified
from made import a_limit


def limit(resource: str, connections: int, **more: Any) -> Limit:
    given = {"capacity": connections, "base": 0.0}
    low, high = int(connections * 0.97), int(connections * 1.03)
    return a_limit(resource, connections, low, high, **(given | more))


def end(connections: int, cause: str = "it refused connections", **more: Any) -> End:
    return End(connections, cause, more.pop("failures", {"refused": 9}), more.pop("drops", {}), **more)


LIMITS = (limit("nofile", 4000), limit("heap", 9000), limit("memory", 10**6))


def test_prediction_beside_truth() -> None:
    found = verified(end(3980), LIMITS)
    assert (found.side, found.resource, found.predicted) == ("server", "nofile", 4000)
    assert found.error == pytest.approx(20 / 3980)
    assert found.inside is True


def test_a_truth_outside_the_interval_is_said_to_be() -> None:
    found = verified(end(3800), LIMITS)
    assert found.inside is False
    assert found.error == pytest.approx(200 / 3800)


def test_what_is_not_full_was_not_the_reason() -> None:
    assert verified(end(2000), LIMITS).resource is None


def test_the_fullest_is_named_though_another_was_predicted_first() -> None:
    assert verified(end(8950), LIMITS[1:]).resource == "heap"
    limits = (limit("heap", 8000), limit("nofile", 8050))
    assert verified(end(8049), limits).resource == "heap"


@pytest.mark.parametrize("cause", ["no_source_port", "fd_limit", "worker_lost"])
def test_the_clients_own_end_is_never_taken_for_the_servers(cause: str) -> None:
    found = verified(end(3990, failures={cause: 50, "refused": 1}), LIMITS)
    assert (found.side, found.resource, found.error, found.inside) == ("client", None, None, None)


def test_limits_of_the_client_and_of_traffic_are_no_prediction() -> None:
    limits = (limit("source_ports", 100, scope="client"), limit("accept_queue", 200), *LIMITS)
    assert verified(end(3990), limits).predicted == 4000


def test_nothing_broke() -> None:
    found = verified(end(3990, failures={}, reached=True), LIMITS)
    assert (found.side, found.resource, found.error) == ("none", None, None)


def test_a_runtimes_last_words_name_the_heap() -> None:
    words = "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory"
    assert verified(end(7000, died=True, status=-6, last_words=words), LIMITS).resource == "heap"


def test_a_server_that_was_killed_was_so_for_its_memory() -> None:
    limits = (limit("nofile", 4000), limit("cgroup_memory", 4100))
    assert verified(end(4000, died=True, status=-9), limits).resource == "cgroup_memory"
    assert verified(end(4000, died=True, status=1), limits).resource == "nofile"


def test_an_end_that_is_known_to_a_span_is_inside_or_outside_only_as_a_whole() -> None:
    low, high = LIMITS[0].low, LIMITS[0].high
    assert verified(end(int(low), most=int(high)), LIMITS).inside is True
    assert verified(end(int(low) - 9, most=int(high)), LIMITS).inside is None
    assert verified(end(10, most=int(low) - 9), LIMITS).inside is False


def test_an_error_is_told_of_an_end_that_is_known_to_a_hundredth() -> None:
    assert verified(end(3800, most=3838), LIMITS).error == pytest.approx(200 / 3800)
    assert verified(end(3800, most=3839), LIMITS).error is None
