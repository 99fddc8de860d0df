"""Limits that V8 itself reported (Node 20, 8-byte pointers), and which of its spaces count."""

import pytest

from connprobe.observe.runtimes.v8 import Heap, old_generation_limit

MiB = 1 << 20


@pytest.mark.parametrize(
    ("reported", "flags", "old"),
    [  # all in MiB. The first ones: as Node chose them in cgroups of 60, 700, 1500, 3000 MB and on 24 GB.
        (259, [], 256),
        (362, [], 350),
        (774, [], 750),
        (1548, [], 1500),
        (4144, [], 4096),
        (88, ["--max-old-space-size=40"], 40),
        (103, ["--max-old-space-size=100"], 100),
        (88, ["--max-old-space-size=900", "--max_old_space_size=40"], 40),
        (88, ['"--max-old-space-size=40"'], 40),
        (92, ["--max-old-space-size=80", "--max-semi-space-size=3"], 80),
        (4192, ["--max-semi-space-size=32"], 4096),
        (4192, ["--max-semi-space-size=20"], 4096),
        (300, ["--max-heap-size=300"], 288),
        (64, ["--max-heap-size=64"], 61),
        (4144, ["--max-old-space-size=40"], 4096),  # a flag that V8 did not take
        (4144, ["--max-old-space-size=0"], 4096),
        (4144, ["--max-old-space-size=x", "--max-old-space-size="], 4096),
    ],
)
def test_the_limit_of_the_old_generation(reported: int, flags: list[str], old: int) -> None:
    assert old_generation_limit(reported * MiB, flags) == old * MiB


@pytest.mark.parametrize("reported", [1, MiB, 3 * MiB, 1 << 53])
def test_any_limit_leaves_something(reported: int) -> None:
    assert 0 < old_generation_limit(reported, ["--max-semi-space-size=999999999"]) <= reported


def test_the_young_generation_and_what_all_share_do_not_count() -> None:
    spaces = {
        "read_only_space": 1,
        "new_space": 2,
        "old_space": 400,
        "code_space": 80,
        "new_large_object_space": 16,
        "large_object_space": 3200,
        "trusted_space": 64_000,
    }
    heap = Heap(version="v20.20.2", limit=88 * MiB, spaces=spaces, flags=[], worker=False)
    assert heap.live_bytes == 67_680
    assert heap.name == "Node 20.20 (V8)"
