import random

from msgspec.structs import replace

from connprobe.model import LeftOut, Limit
from connprobe.plan.limits.combine import combine, combine_left_out
from made import a_limit

HEAP = a_limit(
    "heap", 16_900, 16_600, 17_200, capacity=80 << 20, per_connection=4733, unit="bytes", base=4e6, beyond=4.0
)
FDS = replace(HEAP, resource="nofile", connections=19_977, low=19_977, high=19_977, unit="count")


def test_one_trial_is_itself() -> None:
    assert combine([[HEAP, FDS]]) == (HEAP, FDS)
    assert combine([]) == ()
    assert combine([[], []]) == ()


def test_the_same_each_time_stays_as_it_was() -> None:
    again = replace(HEAP, scope="server (pid 9)")
    assert combine([[HEAP, FDS], [again, FDS]]) == (again, FDS)


def test_servers_that_differ_more_than_their_intervals_explain_widen_it() -> None:
    trials = [
        [replace(HEAP, connections=each, low=each - 50, high=each + 50)] for each in (16_000, 16_900, 17_800)
    ]
    (limit,) = combine(trials)
    assert limit.connections == 16_900
    # t of 2 degrees, times 900, times the root of 4/3.
    assert abs(limit.connections - limit.low - 4471) < 10
    assert abs(limit.high - limit.connections - 4471) < 10


def test_a_limit_that_not_every_repeat_had_says_so() -> None:
    heap, fds = combine([[HEAP, FDS], [FDS], [HEAP, FDS]])
    assert heap.note == "in 2 of 3 repeats"
    assert fds.note is None


def test_limits_of_one_name_are_told_apart_by_their_source_and_scope() -> None:
    def threads(connections: int, source: str, scope: str = "host") -> Limit:
        return replace(
            FDS,
            resource="threads",
            scope=scope,
            source=source,
            connections=connections,
            low=connections,
            high=connections,
        )

    sources = (threads(190_000, "kernel.threads-max"), threads(4_194_304, "kernel.pid_max"))
    assert combine([sources]) == sources
    frontends = (threads(300, "haproxy.cfg", "frontend web1"), threads(500, "haproxy.cfg", "frontend web2"))
    assert combine([frontends, frontends]) == frontends
    fresh = [[threads(7, f"/proc/{pid}/limits", f"server (pid {pid})")] for pid in (101, 202)]
    assert len(combine(fresh)) == 1


def test_the_next_server_lies_inside_95_percent() -> None:
    for apart, noise in ((200.0, 0.0), (200.0, 100.0), (0.0, 200.0)):
        for repeats in (3, 10):
            rng, inside = random.Random(repeats), 0
            for _ in range(600):
                trials = []
                for _ in range(repeats):
                    seen = round(rng.gauss(17_000, apart) + rng.gauss(0, noise))
                    width = round(1.96 * noise)
                    trials.append([replace(HEAP, connections=seen, low=seen - width, high=seen + width)])
                (limit,) = combine(trials)
                inside += limit.low <= rng.gauss(17_000, apart) <= limit.high
            assert inside / 600 >= 0.91


def test_what_one_trial_could_not_tell_another_may() -> None:
    heap = LeftOut(resource="heap", scope="server (pid 7)", capacity=1.0, reason="few", not_before=900)
    again = replace(heap, scope="server (pid 9)", not_before=700)
    threads = replace(heap, resource="threads", never=True, not_before=None)
    assert combine_left_out([[threads, heap], [again, threads]], []) == (again, threads)
    assert combine_left_out([[threads, heap], [threads]], [replace(HEAP, scope="server (pid 3)")]) == (
        threads,
    )
    # In one trial it was not measured: what the other knows still holds.
    assert combine_left_out([[heap], [replace(heap, not_before=None)]], [])[0].not_before == 900
