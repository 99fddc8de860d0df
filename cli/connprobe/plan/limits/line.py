"""A straight line through readings, in one pass, and the bands about it that a chart shows."""

import math
from dataclasses import dataclass

NORMAL_95 = 1.96


@dataclass
class LineFit:
    """Least squares by running sums (Welford's, which do not cancel). Two different x make a line."""

    count: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    sxx: float = 0.0
    sxy: float = 0.0
    syy: float = 0.0
    least_x: float = math.inf
    greatest_x: float = -math.inf

    def add(self, x: float, y: float) -> None:
        self.count += 1
        dx, dy = x - self.mean_x, y - self.mean_y
        self.mean_x += dx / self.count
        self.mean_y += dy / self.count
        self.sxx += dx * (x - self.mean_x)
        self.sxy += dx * (y - self.mean_y)
        self.syy += dy * (y - self.mean_y)
        self.least_x, self.greatest_x = min(self.least_x, x), max(self.greatest_x, x)

    @property
    def known(self) -> bool:
        return self.count >= 3 and self.sxx > 0

    @property
    def slope(self) -> float:
        return self.sxy / self.sxx

    def at(self, x: float) -> float:
        return self.mean_y + self.slope * (x - self.mean_x)

    @property
    def spread(self) -> float:
        """Half the width of the band that holds 95 % of the readings, where they scatter normally."""
        rest = max(0.0, self.syy - self.slope * self.sxy)
        return NORMAL_95 * math.sqrt(rest / (self.count - 2))
