"""Least squares over a handful of readings: a straight line in exact arithmetic, and a line with more terms.

Exact, because a descriptor count lies on its line to the letter, and its limit is then known to the letter.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

Points = Sequence[tuple[int, float]]
EXACT = 1e-9  # of the range of the values: a residual below is rounding


class Line(NamedTuple):
    """value = base + slope * x. The variances are in units of the readings' variance.

    center: the x at which the line is known best; there base and slope err independently.
    rss: the sum of squared residuals. degrees: of freedom, left for the residuals.
    extra: the coefficients of further terms; extra_variances: theirs.
    """

    base: float
    slope: float
    center: float
    center_variance: float
    slope_variance: float
    rss: float
    degrees: int
    extra: tuple[float, ...] = ()
    extra_variances: tuple[float, ...] = ()

    def at(self, x: float) -> float:
        return self.base + self.slope * x

    def variance_at(self, x: float) -> float:
        return self.center_variance + (x - self.center) ** 2 * self.slope_variance

    @property
    def residual(self) -> float:
        return math.sqrt(self.rss / self.degrees) if self.degrees else 0.0


def straight(points: Points) -> Line:
    """The line of least squares through two points or more, not all at the same x."""
    number = len(points)
    xs = [Fraction(x) for x, _ in points]
    ys = [Fraction(y) for _, y in points]
    mean_x, mean_y = sum(xs) / number, sum(ys) / number
    sxx = sum((x - mean_x) ** 2 for x in xs)
    sxy = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    syy = sum((y - mean_y) ** 2 for y in ys)
    slope = sxy / sxx
    rss = float(syy - sxy * slope)
    if rss <= (EXACT * _spread(points)) ** 2:
        rss = 0.0
    return Line(
        base=float(mean_y - slope * mean_x),
        slope=float(slope),
        center=float(mean_x),
        center_variance=1 / number,
        slope_variance=float(1 / sxx),
        rss=rss,
        degrees=number - 2,
    )


def extended(points: Points, terms: Sequence[Sequence[float]]) -> Line | None:
    """The same with further terms, each given by its value at each point. None: they cannot be told apart."""
    xs = [float(x) for x, _ in points]
    middle, half = (xs[0] + xs[-1]) / 2, (xs[-1] - xs[0]) / 2 or 1.0
    largest = [max(map(abs, term)) or 1.0 for term in terms]
    columns = [[1.0] * len(xs), [(x - middle) / half for x in xs]]
    columns += [[each / size for each in term] for term, size in zip(terms, largest, strict=True)]
    offset = points[0][1]
    solved = _solve(columns, [y - offset for _, y in points])
    if solved is None:
        return None
    beta, covariance, rss = solved
    if rss <= (EXACT * _spread(points)) ** 2:
        rss = 0.0
    # In units of x: slope = beta1 / half; value at `middle` = offset + beta0.
    shift = -covariance[0][1] / covariance[1][1]
    slope = beta[1] / half
    return Line(
        base=offset + beta[0] - slope * middle,
        slope=slope,
        center=middle + shift * half,
        center_variance=max(0.0, covariance[0][0] - covariance[0][1] ** 2 / covariance[1][1]),
        slope_variance=covariance[1][1] / half**2,
        rss=rss,
        degrees=len(points) - len(columns),
        extra=tuple(each / size for each, size in zip(beta[2:], largest, strict=True)),
        extra_variances=tuple(
            covariance[2 + index][2 + index] / size**2 for index, size in enumerate(largest)
        ),
    )


def repeated_medians(points: Points) -> tuple[float, float]:
    """(base, slope) of a line that nearly half of the readings cannot move (Siegel 1982)."""
    slopes = []
    for x, y in points:
        through = [(y - other_y) / (x - other_x) for other_x, other_y in points if other_x != x]
        if through:
            slopes.append(median(through))
    slope = median(slopes)
    return median([y - slope * x for x, y in points]), slope


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _spread(points: Points) -> float:
    values = [y for _, y in points]
    return max(values) - min(values)


def _solve(
    columns: Sequence[Sequence[float]], y: Sequence[float]
) -> tuple[list[float], list[list[float]], float] | None:
    """Coefficients, their covariance in units of the variance, residual sum: Gram and Schmidt, twice."""
    size = len(columns)
    basis: list[list[float]] = []
    r = [[0.0] * size for _ in range(size)]
    for j, column in enumerate(columns):
        rest = list(column)
        for _ in range(2):
            for i, direction in enumerate(basis):
                along = _dot(direction, rest)
                r[i][j] += along
                rest = [a - along * b for a, b in zip(rest, direction, strict=True)]
        length = math.sqrt(_dot(rest, rest))
        if length < 1e-9 * math.sqrt(_dot(column, column)):
            return None
        r[j][j] = length
        basis.append([a / length for a in rest])
    along_y = []
    rest = list(y)
    for direction in basis:
        along = _dot(direction, rest)
        along_y.append(along)
        rest = [a - along * b for a, b in zip(rest, direction, strict=True)]
    inverse = [[0.0] * size for _ in range(size)]
    for j in range(size):
        inverse[j][j] = 1 / r[j][j]
        for i in range(j - 1, -1, -1):
            inverse[i][j] = -sum(r[i][k] * inverse[k][j] for k in range(i + 1, j + 1)) / r[i][i]
    beta = [_dot(row, along_y) for row in inverse]
    covariance = [[_dot(row, other) for other in inverse] for row in inverse]
    return beta, covariance, _dot(rest, rest)


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))
