"""From a histogram to the percentiles of a record. Apart from the histogram, which every worker imports."""

from collections.abc import Sequence

from connprobe.model import Distribution
from connprobe.plan.histogram import percentile


def distribution(counts: Sequence[int], sum_us: int, max_us: int) -> Distribution | None:
    """In milliseconds; None without values. no percentile is above the maximum."""
    number = sum(counts)
    if not number:
        return None
    most = max_us / 1000

    def at(fraction: float) -> float:
        return round(min(most, (percentile(counts, fraction) or 0.0) / 1000), 4)

    return Distribution(
        count=number,
        mean=round(sum_us / number / 1000, 4),
        p50=at(0.5),
        p90=at(0.9),
        p99=at(0.99),
        p999=at(0.999),
        max=round(most, 4),
    )
