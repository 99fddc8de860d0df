"""When a batch is to be read."""

from connprobe.engine.batches import LEAST_MORE_S, Batches

FDS = list(range(10, 74))


def batches() -> Batches:
    """One that began at 100 s; 41 and 73 are marked."""
    made = Batches()
    made.add(FDS, 7, 100.0, [73, 41])
    return made


def test_it_is_read_once_all_marks_were_told_of() -> None:
    made = batches()
    assert made.told([(41, 1)], 100.001) == ([], False)
    assert made.told([(73, 1), (5, 1)], 100.002) == ([(5, 1)], True)
    (batch,) = made.due(100.002)
    assert len(made) == 64
    made.take(batch)
    assert (len(made), made.marked, made.due(200.0)) == (0, {}, [])


def test_a_mark_that_is_slow_is_not_waited_for() -> None:
    for first, allowed in ((100.001, LEAST_MORE_S), (101.0, 0.5)):
        made = batches()
        assert made.patience_s(first, 9.0) == 9.0
        assert made.told([(41, 1)], first) == ([], False)
        assert abs(made.patience_s(first, 9.0) - allowed) < 1e-9
        assert made.patience_s(first, 0.001) == 0.001
        assert made.due(first + 0.9 * allowed) == []
        (batch,) = made.due(first + 1.1 * allowed)
        assert made.patience_s(first + 2 * allowed, 9.0) == 0.0
        made.take(batch)
        assert made.told([(73, 1)], 102.0) == ([(73, 1)], True)  # an event as any other now


def test_what_is_of_no_batch_is_left_and_so_is_a_wait_that_is_over() -> None:
    made = batches()
    assert made.told([(5, 1)], 100.0) == ([(5, 1)], True)
    assert made.told([], 100.0) == ([], True)
    assert Batches().told([(73, 1)], 100.0) == ([(73, 1)], True)
