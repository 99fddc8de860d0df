import math
import random
from collections.abc import Callable

from connprobe.plan.limits.settle import BOUND_S, LONG_S, WINDOW_S, Settled, Settling

STEP_S = 0.15
MB = 1_000_000


def wait(
    memory: Callable[[float], float], cpu: Callable[[float], float], step_s: float = STEP_S
) -> tuple[float, Settled]:
    """Feeds it until it no longer waits. memory and cpu_s: by seconds since the start."""
    settling, now = Settling(), 0.0
    while True:
        # The clock's zero is nobody's business.
        seen = settling.feed(1e6 + now, int(memory(now)), cpu(now))
        if seen.state != "waiting":
            return now, seen
        now += step_s
        assert now < 2 * BOUND_S


def idle(now: float) -> float:
    return 3 + 0.001 * now


def test_flat_and_quiet_settles_after_one_window() -> None:
    rng = random.Random(1)
    took, seen = wait(lambda _: 50 * MB + 4096 * rng.randrange(-4, 5), idle)
    assert seen.state == "settled"
    assert WINDOW_S <= took < WINDOW_S + 2 * STEP_S
    assert seen.off_bytes == 0


def test_it_waits_for_memory_to_come_to_rest() -> None:
    took, seen = wait(lambda now: 50 * MB + 3 * MB * min(now, 6.0), idle)
    assert seen.state == "settled"
    assert 6 < took < 6 + WINDOW_S + 1


def test_it_waits_for_the_cpu_to_be_quiet() -> None:
    took, seen = wait(lambda _: 50 * MB, lambda now: 0.8 * min(now, 5.0))
    assert seen.state == "settled"
    assert 5 < took <= 5 + WINDOW_S + STEP_S


def test_a_server_that_always_works_settles_when_it_works_steadily() -> None:
    took, seen = wait(lambda _: 50 * MB, lambda now: 0.3 * now)
    assert seen.state == "settled"
    assert LONG_S <= took < LONG_S + 1


def test_a_collector_that_comes_and_goes_is_at_rest() -> None:
    """Memory climbs by 8 MB and is collected, each 1.7 s."""
    took, seen = wait(lambda now: 50 * MB + 8 * MB * (now % 1.7) / 1.7, idle)
    assert seen.state == "settled"
    assert took < BOUND_S / 2


def test_a_collector_above_a_leak_is_not() -> None:
    _, seen = wait(lambda now: 50 * MB + 8 * MB * (now % 1.7) / 1.7 + 1 * MB * now, idle)
    assert seen.state == "gave_up"
    assert seen.reason == "memory changes"


def test_a_leak_is_given_up_with_its_rate() -> None:
    took, seen = wait(lambda now: 50 * MB + 2 * MB * now, idle)
    assert seen.state == "gave_up"
    assert BOUND_S - STEP_S < took < BOUND_S + 2 * STEP_S
    assert seen.drift_bytes_per_s is not None
    assert abs(seen.drift_bytes_per_s - 2 * MB) < 0.02 * MB
    assert abs(seen.off_bytes - 2 * MB * BOUND_S) < MB


def test_memory_given_back_slowly_is_a_drift_too() -> None:
    _, seen = wait(lambda now: 500 * MB - 3 * MB * now, idle)
    assert seen.drift_bytes_per_s is not None
    assert seen.drift_bytes_per_s < -2 * MB
    assert seen.off_bytes > 0


def test_a_cpu_that_is_ever_busier_is_given_up_on() -> None:
    _, seen = wait(lambda _: 50 * MB, lambda now: math.exp(now / 8))
    assert seen.state == "gave_up"
    assert seen.reason.startswith("the CPU is busy")


def test_samples_of_many_processes_take_long_and_their_window_is_longer() -> None:
    took, seen = wait(lambda _: 50 * MB, idle, 0.4)
    assert seen.state == "settled"
    assert WINDOW_S < took <= 8 * 0.4
    took, seen = wait(lambda _: 50 * MB, lambda now: 0.3 * now, 1.5)  # always works, steadily
    assert seen.state == "settled"
    took, seen = wait(lambda now: 50 * MB + MB * now, idle, 1.5)
    assert seen.state == "gave_up"
    assert seen.off_bytes > 0


def test_few_samples_say_nothing() -> None:
    settling = Settling()
    assert settling.feed(0, 50 * MB, 0).state == "waiting"
    seen = settling.feed(BOUND_S + 1, 50 * MB, 0)
    assert seen.state == "gave_up"
    assert seen.drift_bytes_per_s is None
    assert "samples" in seen.reason
