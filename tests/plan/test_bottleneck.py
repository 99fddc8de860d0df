"""Who was waited for in the ramp, and what is said of an accept queue."""

from typing import Any

import pytest

from connprobe.model import ListenerFigures, ListenSocketFigures, Verdict
from connprobe.plan.bottleneck import SHORT_S, CpuUse, bottleneck, queue_verdict

# A ramp of 10 s on 2 CPUs: 20 s of CPU time, of which half was idle.
QUIET = CpuUse(
    ramp_s=10.0,
    cpus=2,
    idle_s=10.0,
    kernel_s=6.0,
    client_user_s=2.0,
    server_user_s=2.0,
    busiest_worker=0.3,
    busiest_server=0.4,
)
FULL = {"idle_s": 1.0, "kernel_s": 11.0, "client_user_s": 5.0, "server_user_s": 3.0}


def said(*, rated: bool = False, overflows: int | None = 0, **changes: Any) -> Verdict:
    found = bottleneck(QUIET._replace(**changes), rated=rated, overflows=overflows)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("changes", "level", "text", "fix"),
    [
        (
            {},
            "note",
            "No CPU was the bottleneck of the ramp (50% busy): it waited for answers.",
            "--concurrency",
        ),
        ({"overflows": 23}, "note", "waited for the accept queue", None),
        ({"overflows": None}, "note", "it waited for answers", "--concurrency"),
        ({"rated": True}, "note", "went at the rate asked; CPU was 50% busy", None),
        ({"rated": True, "busiest_worker": 0.99}, "note", "went at the rate asked", None),
        (
            {"busiest_worker": 0.97},
            "warning",
            "connprobe was the bottleneck: one of its processes took 97%",
            "--workers",
        ),
        (
            {"busiest_server": 0.95},
            "note",
            "The server was the bottleneck: a process of it took 95%",
            "SO_REUSEPORT",
        ),
        # Both are busy: what is measured is the server.
        (
            {"busiest_server": 0.95, "busiest_worker": 0.97},
            "note",
            "The server was the bottleneck",
            "SO_REUSEPORT",
        ),
        (
            {"server_user_s": None, "busiest_server": None, "busiest_worker": 0.97},
            "warning",
            "connprobe was",
            None,
        ),
        (
            FULL,
            "note",
            "95% of 2 busy (the kernel 55%, connprobe 25%, the server 15%). Client and server share",
            None,
        ),
        ({**FULL, "rated": True}, "note", "went at the rate asked; CPU was 95% busy.", None),
        (
            {**FULL, "rated": True, "kernel_s": 7.0},
            "warning",
            "rate asked; CPU was 95% busy. Other processes took 20%: figures are of a busy machine.",
            "top",
        ),
        ({**FULL, "overflows": 23}, "note", "bound by this host's CPU", None),
        (
            {**FULL, "server_user_s": None, "kernel_s": 14.0},
            "warning",
            "The client was the limit, not the server.",
            None,
        ),
        ({**FULL, "kernel_s": 7.0}, "warning", "bound by this host's CPU", "top"),
        ({**FULL, "kernel_s": 7.0}, "warning", "Other processes took 20%.", "top"),
        (
            {"idle_s": 0.4, "kernel_s": 4.0, "client_user_s": 0.6, "server_user_s": 0.6},
            "warning",
            "kept the CPUs busy: they took 72% of 2 (the kernel 20%, connprobe 3%, the server 3%).",
            "top",
        ),
        (  # one of its threads may be at its limit, and nobody could tell
            {"idle_s": 0.4, "kernel_s": 4.0, "client_user_s": 0.6, "server_user_s": None},
            "warning",
            "they took 75% of 2, the server perhaps among them (the kernel 20%, connprobe 3%).",
            "top",
        ),
    ],
)
def test_the_bottleneck(changes: dict[str, Any], level: str, text: str, fix: str | None) -> None:
    verdict = said(**changes)
    assert (verdict.level, text in verdict.text) == (level, True), verdict
    if fix is not None:
        assert fix in (verdict.fix or "")


def test_a_machine_that_others_kept_busy_has_no_cause() -> None:
    text = said(idle_s=0.4, kernel_s=4.0, client_user_s=0.6, server_user_s=0.6).text
    assert "bound by" not in text
    assert "bottleneck" not in text


def test_a_ramp_too_short_to_tell_says_nothing() -> None:
    use = QUIET._replace(ramp_s=SHORT_S * 0.99)
    assert bottleneck(use, rated=False, overflows=23) is None


def test_idle_time_beyond_all_time_is_not_negative_busyness() -> None:
    assert "(0% busy)" in said(idle_s=20.4).text


def listener(*sockets: tuple[int, int], **changes: Any) -> ListenerFigures:
    fields: dict[str, Any] = {
        "address": "127.0.0.1:8080",
        "depth_max": max((depth for depth, _ in sockets), default=None),
        "capacity": sum(capacity for _, capacity in sockets),
        "overflows": 0,
        "wait_ms": None,
        "source": "eBPF",
        "capacity_from": "backlog argument of listen(2): 3",
        "sockets": tuple(
            ListenSocketFigures(inode=inode, depth=0, depth_max=depth, capacity=capacity, overflows=0)
            for inode, (depth, capacity) in enumerate(sockets)
        ),
    }
    return ListenerFigures(**(fields | changes))


def test_no_overflow_is_good_news_with_depth_capacity_and_bound() -> None:
    verdict = queue_verdict(listener((2, 4)), 10.0, ours=True)
    assert verdict == Verdict(
        level="good",
        text="127.0.0.1:8080: the accept queue did not overflow; it held 2 of 4 at most. "
        "Its bound: backlog argument of listen(2): 3; one more may wait.",
    )


@pytest.mark.parametrize(
    ("overflows", "elapsed_s", "ours", "text"),
    [
        (1009, 10.0, True, "overflowed 1,009 times, 101/s over the ramp; it held 4 of 4"),
        (1009, 10.0, False, "overflowed 1,009 times, 101/s; it held 4 of 4"),
        (23, 60.0, False, "overflowed 23 times, 0.38/s; it"),
        (1, 10.0, True, "overflowed once, 0.1/s over the ramp;"),
        (23, 0.0, True, "overflowed 23 times; it held"),
    ],
)
def test_overflows_come_with_their_rate(overflows: int, elapsed_s: float, ours: bool, text: str) -> None:
    verdict = queue_verdict(listener((4, 4), overflows=overflows), elapsed_s, ours=ours)
    assert verdict is not None
    assert verdict.level == "warning"
    assert text in verdict.text
    assert verdict.fix is not None
    assert "net.core.somaxconn" in verdict.fix
    assert ("--rate" in verdict.fix) == ours


def test_of_a_group_the_fullest_is_named_and_not_the_deepest() -> None:
    verdict = queue_verdict(listener((3, 4), (10, 1025), overflows=23), 10.0, ours=True)
    assert verdict is not None
    assert "the fullest of 2 queues held 3 of 4 at most" in verdict.text


def test_what_is_not_known_is_not_said() -> None:
    assert queue_verdict(listener((3, 4), overflows=None), 10.0, ours=True) is None
    verdict = queue_verdict(listener(capacity_from=None), 10.0, ours=True)
    assert verdict is not None
    assert verdict.text == "127.0.0.1:8080: the accept queue did not overflow."


@pytest.mark.parametrize("changes", [{}, FULL, {"busiest_worker": 0.3}])
def test_a_load_is_not_called_a_ramp(changes: dict[str, Any]) -> None:
    for rated in (False, True):
        found = bottleneck(QUIET._replace(**changes), rated=rated, overflows=0, what="load")
        assert found is not None
        assert "load" in found.text
        assert "ramp" not in found.text
