"""A day of readings in a chart of 2,000 points, in one pass and bounded memory, without losing a spike.

Readings fall into buckets that each keep the least and the greatest value of every series, with their times.
When there are too many buckets, neighbours merge: up to 2,000 readings nothing is lost.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

MOST_POINTS = 2000


@dataclass
class Extremes:
    """The least and the greatest of a bucket: (time, value) each."""

    least: tuple[float, float]
    greatest: tuple[float, float]

    def merge(self, other: "Extremes") -> "Extremes":
        return Extremes(
            min(self.least, other.least, key=lambda it: it[1]),
            max(other.greatest, self.greatest, key=lambda it: it[1]),  # the later of equal ones
        )


@dataclass
class Bucket:
    began: float
    count: int = 0
    extremes: dict[str, Extremes] = field(default_factory=dict)

    def merge(self, other: "Bucket") -> "Bucket":
        merged = dict(self.extremes)
        for name, theirs in other.extremes.items():
            merged[name] = merged[name].merge(theirs) if name in merged else theirs
        return Bucket(self.began, self.count + other.count, merged)


class Thinned:
    """`add` readings in the order of time; `points` gives a series back."""

    def __init__(self, most_points: int = MOST_POINTS) -> None:
        self._most = most_points // 2
        self._size = 2  # a bucket of two keeps both
        self._buckets: list[Bucket] = []

    def add(self, at: float, values: Mapping[str, float | None]) -> None:
        if not self._buckets or self._buckets[-1].count >= self._size:
            if len(self._buckets) >= self._most:
                self._halve()
            self._buckets.append(Bucket(at))
        new = {k: Extremes((at, v), (at, v)) for k, v in values.items() if v is not None}
        self._buckets[-1] = self._buckets[-1].merge(Bucket(at, 1, new))

    def _halve(self) -> None:
        even = len(self._buckets) // 2 * 2
        merged = [a.merge(b) for a, b in zip(self._buckets[0:even:2], self._buckets[1:even:2], strict=True)]
        self._buckets = merged + self._buckets[even:]
        self._size *= 2

    def points(self, name: str) -> tuple[list[float], list[float | None]]:
        """Times and values of a series; None, where there was no reading, breaks the line."""
        found = list(self._points(name))
        kept = [
            point
            for before, point in pairwise([(0.0, None), *found])
            if point[1] is not None or before[1] is not None
        ]
        while kept and kept[-1][1] is None:
            kept.pop()
        return [at for at, _ in kept], [value for _, value in kept]

    def _points(self, name: str) -> Iterator[tuple[float, float | None]]:
        for bucket in self._buckets:
            extremes = bucket.extremes.get(name)
            if extremes is None:
                yield bucket.began, None
            elif extremes.least == extremes.greatest:
                yield extremes.least
            else:
                yield from sorted((extremes.least, extremes.greatest))
