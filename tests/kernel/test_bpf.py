import os
from pathlib import Path

import pytest

from connprobe.kernel import accept_queue, accept_wait, bpf, lifecycle
from connprobe.kernel.live import Live
from kernel.sockets import Load, Sockets


@pytest.fixture(scope="module")
def waits(load_once: Load) -> Live:
    return load_once(accept_wait.probe())


@pytest.fixture(scope="module")
def queues(load_once: Load) -> Live:
    return load_once(accept_queue.probe())


def test_a_map_of_more_entries_than_a_batch_holds(load: Load) -> None:
    table = load(lifecycle.probe()).maps["odd_roles"]
    mine = {(1 << 63 | i).to_bytes(8, "little"): i.to_bytes(4, "little") for i in range(3001)}
    for key, value in mine.items():
        table.set(key, value)
    found = dict(table.items())
    assert {key: found[key] for key in mine} == {key: [value] for key, value in mine.items()}
    for key in mine:
        table.delete(key)
        table.delete(key)  # which is no longer there
    assert mine.keys().isdisjoint(dict(table.items()))
    assert table.get(next(iter(mine))) is None


def test_values_for_each_processor(queues: Live) -> None:
    table = queues.maps["lost"]
    assert table.per_cpu
    assert [len(values) for _, values in table.items()] == [bpf.possible_cpus()] * table.max_entries
    last = (table.max_entries - 1).to_bytes(4, "little")
    table.set(last, (23).to_bytes(8, "little"))
    assert table.get(last) == [(23).to_bytes(8, "little")] * bpf.possible_cpus()
    table.set(last, bytes(8))


def test_values_larger_than_a_batch(queues: Live) -> None:
    table = queues.maps["counts"]
    mine = {
        (1 << 63 | i).to_bytes(8, "little"): i.to_bytes(4, "little") * (table.value_size // 4)
        for i in range(53)
    }
    for key, value in mine.items():
        table.set(key, value)
    found = dict(table.items())
    for key, value in mine.items():
        assert found[key] == [value]
        table.delete(key)
    assert mine.keys().isdisjoint(dict(table.items()))


def test_sizes_that_do_not_fit(waits: Live) -> None:
    with pytest.raises(ValueError, match="a key of 3 bytes for a map of 4"):
        waits.maps["interval"].get(bytes(3))
    with pytest.raises(ValueError, match="a value of 9 bytes for a map of 4"):
        waits.maps["interval"].set(bytes(4), bytes(9))


def test_what_a_program_costs(waits: Live, sockets: Sockets) -> None:
    def runs() -> bpf.ProgramStatistics:
        (found,) = (one for one in waits.statistics() if one.name == "set_state")
        return found

    listener = sockets.listen(100)
    try:
        counting = bpf.enable_statistics()
    except PermissionError:
        pytest.skip("BPF_ENABLE_STATS needs CAP_SYS_ADMIN: run the tests as root")
    before = runs()
    sockets.connect(listener, 23)
    after = runs()
    os.close(counting)
    assert after.run_count - before.run_count >= 2 * 23
    assert after.run_time_ns > before.run_time_ns
    assert waits.memory_bytes >= after.memory_bytes > 0


def test_descriptors_of_something_else() -> None:
    with Path(os.devnull).open() as file:
        for refused in (bpf.program_id, bpf.link_program, bpf.perf_event_programs, bpf.run_iterator, bpf.Map):
            with pytest.raises(OSError, match=r"Invalid|Inappropriate|Bad"):
                refused(file.fileno())
