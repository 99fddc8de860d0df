"""Student's t without scipy: few readings give wide intervals, and how wide must be right."""

import math
from functools import lru_cache

CONFIDENCE = 0.95
_TINY = 1e-300


@lru_cache(maxsize=4096)
def quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """t such that the share `confidence` of Student's distribution lies between -t and t."""
    if degrees < 1:
        raise ValueError("no degree of freedom is left")
    if not 0 < confidence < 1:
        raise ValueError("a confidence lies between 0 and 1")
    low, high = 0.0, 1.0
    while within(high, degrees) < confidence:
        low, high = high, high * 2
        if high > 1e15:
            break
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def within(t: float, degrees: int) -> float:
    """The share of Student's distribution between -t and t."""
    return 1 - beyond(t, degrees)


def beyond(t: float, degrees: int) -> float:
    """The share below -t or above t: the p value of a two-sided test. Precise in the far tails."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Abramowitz, Stegun 26.5.8)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """Lentz's method: numerator and denominator side by side."""
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    product = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            product *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return product


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
