import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.report.sparkline import ASCII, BLOCKS, History, resample, sparkline

figures = st.lists(st.floats(min_value=0, max_value=1e9), max_size=700)


def test_a_ramp_climbs_through_both_rows() -> None:
    upper, lower = sparkline(range(17), 17)
    assert lower == " ▁▂▃▄▅▆▇█" + "█" * 8
    assert upper == " " * 9 + "▁▂▃▄▅▆▇█"


def test_a_trickle_is_not_nothing() -> None:
    upper, lower = sparkline([0, 1, 1_000_000], 3)
    assert (upper, lower) == ("  █", " ▁█")


def test_the_top_can_be_given() -> None:
    assert sparkline([50], 1, top=100) == [" ", "█"]
    assert sparkline([500], 1, top=100) == ["█", "█"]


def test_more_readings_than_columns_become_means() -> None:
    assert resample([1, 3, 5, 7, 9, 11], 3) == [2, 6, 10]
    assert resample([1, 3], 7) == [1, 3]


@given(figures, st.integers(min_value=-3, max_value=211), st.sampled_from([BLOCKS, ASCII]))
def test_any_history_fits_any_width(values: list[float], width: int, levels: str) -> None:
    lines = sparkline(values, width, levels=levels)
    assert [len(line) for line in lines] == [max(width, 0)] * 2
    assert set("".join(lines)) <= set(levels)


@given(figures, st.integers(min_value=1, max_value=211))
def test_resampling_stays_between_the_extremes(values: list[float], width: int) -> None:
    shown = resample(values, width)
    assert len(shown) == min(len(values), width)
    assert all(min(values) <= value * (1 + 1e-9) and value <= max(values) * (1 + 1e-9) for value in shown)


@pytest.mark.parametrize("readings", [599, 601, 1201, 5003])
def test_a_history_is_bounded_and_keeps_its_pace(readings: int) -> None:
    history = History(limit=600)
    for reading in range(readings):
        history.add(float(reading))
    assert 300 <= len(history.values) <= 600
    steps = {right - left for left, right in zip(history.values, history.values[1:], strict=False)}
    assert len(steps) == 1
    assert history.values[-1] >= readings - 1 - 2 * steps.pop()
