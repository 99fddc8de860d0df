import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.limits.student import beyond, quantile, within


@pytest.mark.parametrize(
    ("degrees", "confidence", "t"),
    [
        # Printed tables of Student's t.
        (1, 0.95, 12.7062),
        (2, 0.95, 4.30265),
        (3, 0.99, 5.84091),
        (5, 0.95, 2.57058),
        (10, 0.90, 1.81246),
        (30, 0.95, 2.04227),
        (1000, 0.95, 1.96234),
        (1, 0.9999, 6366.198),
    ],
)
def test_printed_tables(degrees: int, confidence: float, t: float) -> None:
    assert quantile(degrees, confidence) == pytest.approx(t, rel=2e-6)


def test_one_degree_is_cauchys_distribution_and_two_have_a_closed_form() -> None:
    for t in (1e-6, 0.3, 1.0, 7.0, 1e6):
        assert within(t, 1) == pytest.approx(2 * math.atan(t) / math.pi, abs=1e-9)
        assert within(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-9)


@given(st.integers(1, 500), st.floats(0.01, 0.999))
def test_the_quantile_is_the_inverse(degrees: int, confidence: float) -> None:
    assert within(quantile(degrees, confidence), degrees) == pytest.approx(confidence, abs=1e-9)


def test_far_tails_and_nonsense() -> None:
    assert beyond(math.inf, 3) == 0
    assert beyond(1e9, 2) == pytest.approx(1e-18, rel=1e-6)
    with pytest.raises(ValueError, match="degree"):
        quantile(0)
    with pytest.raises(ValueError, match="confidence"):
        quantile(3, 1.0)
