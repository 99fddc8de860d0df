"""A log-linear histogram of microseconds: fixed size, so that it fits a row of shared memory.

Each power of two is cut into 64 buckets, so a bucket is at most 1/64 (1.6 %) of its value wide.
"""

from collections.abc import Sequence

_SUB_BITS = 6
_SUB = 1 << _SUB_BITS
_LARGEST = (1 << 32) - 1  # 71 minutes; longer ones are counted there
BUCKETS = (32 - _SUB_BITS) * _SUB + _SUB


def bucket(microseconds: int) -> int:
    """The index of the bucket that counts this value, 0 to BUCKETS - 1."""
    if microseconds < _SUB:
        return max(microseconds, 0)
    if microseconds > _LARGEST:
        microseconds = _LARGEST
    shift = microseconds.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (microseconds >> shift)


def middle(index: int) -> float:
    """The value in microseconds that stands for a bucket: its middle."""
    if index < _SUB:
        return float(index)
    shift = (index >> _SUB_BITS) - 1
    low = (index - (shift << _SUB_BITS)) << shift
    return low + ((1 << shift) - 1) / 2


def percentile(counts: Sequence[int], fraction: float) -> float | None:
    """Microseconds below or at which `fraction` of all values lie (nearest rank); None without values."""
    total = sum(counts)
    if total == 0:
        return None
    rank = max(1, -(-int(fraction * total * 1_000_000) // 1_000_000))
    seen = 0
    for index, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return middle(index)
    return middle(len(counts) - 1)
