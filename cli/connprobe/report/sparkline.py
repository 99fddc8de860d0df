"""A small chart out of block characters, and the bounded history behind it."""

from collections.abc import Sequence
from itertools import pairwise

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:|"


def resample(values: Sequence[float], width: int) -> list[float]:
    """At most `width` values: the mean of each stretch of `values`; fewer values stay as they are."""
    if width <= 0:
        return []
    if len(values) <= width:
        return list(values)
    edges = [column * len(values) // width for column in range(width + 1)]
    return [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]


def sparkline(
    values: Sequence[float], width: int, *, top: float | None = None, rows: int = 2, levels: str = BLOCKS
) -> list[str]:
    """`rows` lines of `width` columns, the upper one first.

    `top` is the value of a full column (the greatest shown if None). What is above zero shows at least
    the lowest step: a trickle must not look like nothing.
    """
    shown = resample(values, width)
    steps = len(levels) - 1
    scale = top if top and top > 0 else max(shown, default=0.0)
    heights = [
        min(max(round(value / scale * steps * rows), 1), steps * rows) if value > 0 else 0 for value in shown
    ]
    lines = [
        "".join(levels[min(max(height - row * steps, 0), steps)] for height in heights)
        for row in reversed(range(rows))
    ]
    return [line.ljust(max(width, 0)) for line in lines]


class History:
    """Readings at an even pace, at most `limit` of them: past that, neighbours merge into their mean."""

    def __init__(self, limit: int = 600) -> None:
        self.values: list[float] = []
        self._limit = limit
        self._stride = 1
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        self._pending.append(value)
        if len(self._pending) < self._stride:
            return
        self.values.append(sum(self._pending) / self._stride)
        self._pending.clear()
        if len(self.values) > self._limit:
            pairs = len(self.values) // 2 * 2
            # An odd one out waits in the pending list, weighted by the stride it stood for.
            self._pending = self.values[pairs:] * self._stride
            self.values = [
                (left + right) / 2
                for left, right in zip(self.values[0:pairs:2], self.values[1:pairs:2], strict=True)
            ]
            self._stride *= 2
