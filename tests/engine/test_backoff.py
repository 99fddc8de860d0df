import pytest

from connprobe.engine.backoff import FIRST_S, MOST_S, Backoff


@pytest.mark.parametrize(("made", "ceiling"), [(0, FIRST_S), (3, 8 * FIRST_S), (20, MOST_S), (999, MOST_S)])
def test_full_jitter_under_a_ceiling_that_doubles_up_to_half_a_minute(made: int, ceiling: float) -> None:
    backoff = Backoff(1000)
    for _ in range(997):
        assert backoff.wait(made, 1000.0)
    assert len(backoff) == 997
    assert backoff.due(999.999) is None
    early = 0
    while backoff.due(1000.0 + ceiling / 10) is not None:
        early += 1
    assert 40 <= early <= 180  # a tenth of 997, within eight standard deviations
    late = 0
    while (attempt := backoff.due(1000.0 + ceiling)) is not None:
        assert attempt == made + 1
        late += 1
    assert early + late == 997


def test_after_so_many_attempts_it_is_enough() -> None:
    backoff = Backoff(2)
    assert backoff.wait(0, 0.0)
    assert backoff.wait(1, 0.0)
    assert not backoff.wait(2, 0.0)
    assert not Backoff(0).wait(0, 0.0)
