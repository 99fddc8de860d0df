"""Figures with their uncertainty, as all reports write them."""

import pytest

from connprobe.model import Interval
from connprobe.report.rows import plus_minus


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (82e6, 0.82e6, "82.00 ± 0.82 MB"),
        (0.0, 225_000, "0 ± 225 kB"),  # the larger of both gives the unit
        (-144_000, 4_104_000, "-0.1 ± 4.1 MB"),
        (-10_000, 1.2e6, "0.0 ± 1.2 MB"),
        (1.86e-10, 0, "0 ± 0 B"),  # what arithmetic leaves of nothing
        (3276.8, 4.096, "3,276.8 ± 4.1 B"),
    ],
)
def test_bytes(mean: float, half: float, text: str) -> None:
    value = Interval(mean=mean, low=mean - half, high=mean + half, count=3)
    assert plus_minus(value, "bytes", each=mean == 3276.8) == text
