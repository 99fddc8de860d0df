"""What a connection costs by a watch: somebody else opens and closes them, and the kernel tells how many."""

from collections.abc import Sequence

from msgspec.structs import replace

from connprobe.model import Growth, Reading
from connprobe.plan.limits.hostcounts import OF_ALL, of_all
from connprobe.plan.limits.prediction import unit_of
from connprobe.plan.limits.unsettled import fit_of

VARIED = 0.25  # of the most connections seen: less between the fewest and the most tells nothing
VARIED_LEAST = 16
MOST_LOOKS = 16
WHOLE_WIDTH = 0.2  # of a slope's interval, in which a whole number is not there by chance


class Looks:
    """Readings of a watch, as they come; so few of them are kept that a watch of days stays small.

    Of about as many connections the one is kept beside which they changed least. For memory only those count
    that were made while there were about as many as ever before: what is freed stays with the process.
    """

    def __init__(self) -> None:
        self.fewest: int | None = None
        self.most: int | None = None
        self._grain = 1
        self._calm: dict[int, tuple[int, Reading]] = {}
        self._rising: dict[int, tuple[int, Reading]] = {}
        self._before: int | None = None

    def add(self, reading: Reading) -> None:
        number, before = reading.connections, self._before
        self.fewest = number if self.fewest is None else min(self.fewest, number)
        self.most = number if self.most is None else max(self.most, number)
        self._before = number
        if before is None:
            return
        while self._grain * MOST_LOOKS < self.most:
            self._grain *= 2
            self._calm, self._rising = self._coarser(self._calm), self._coarser(self._rising)
        moved = abs(number - before)
        self._keep(self._calm, moved, reading)
        if number >= 0.95 * self.most:
            self._keep(self._rising, moved, reading)

    def _keep(self, kept: dict[int, tuple[int, Reading]], moved: int, reading: Reading) -> None:
        key = reading.connections // self._grain
        if key not in kept or moved < kept[key][0]:
            kept[key] = (moved, reading)

    def _coarser(self, kept: dict[int, tuple[int, Reading]]) -> dict[int, tuple[int, Reading]]:
        coarse: dict[int, tuple[int, Reading]] = {}
        for moved, reading in kept.values():
            self._keep(coarse, moved, reading)
        return coarse

    @property
    def too_alike(self) -> str | None:
        """Why these readings tell nothing of what a connection costs; None: they do."""
        if self.fewest is None or self.most is None or not self._calm:
            return "no two readings were made while connections could be counted"
        apart = self.most - self.fewest
        if apart >= max(VARIED_LEAST, VARIED * self.most):
            return None
        if not apart:
            return f"there were {self.most:,} connections all the time: that does not tell what one costs"
        return (
            f"connections varied between {self.fewest:,} and {self.most:,}: too little to tell what one costs"
        )

    def growths(self) -> dict[str, Growth]:
        """By metric; none where they are too alike."""
        if self.too_alike is not None:
            return {}
        calm = [reading for _, reading in self._calm.values()]
        still = [reading for moved, reading in self._calm.values() if not moved]
        rising = [reading for _, reading in self._rising.values()]
        ways = {"bytes": [rising], "count": [calm]}
        if still and _span(still) >= _span(calm) / 2:
            ways["count"].insert(0, still)
        found = {}
        for metric in sorted({metric for reading in calm for metric in reading.use}):
            for readings in ways[unit_of(metric)]:
                growth = fit_of(metric, [each for each in readings if metric in each.use])
                if growth is not None:
                    found[metric] = _rounded(growth, still or calm)
                    break
        most = max(calm, key=lambda each: each.connections)
        own = {metric: growth for metric, growth in found.items() if metric not in OF_ALL}
        return own | of_all(own, most.use, most.connections, ends=1)


def _rounded(growth: Growth, readings: Sequence[Reading]) -> Growth:
    """A count whose interval holds one whole number, closely: what a connection takes is that number.

    What is off is when connections and count were read, so the rest is in the base: between `readings`.
    """
    whole = round(growth.per_connection)
    known = [each for each in readings if growth.metric in each.use]
    if growth.unit != "count" or whole < 1 or not known or growth.shape != "straight":
        return growth
    if not growth.low <= whole <= growth.high or growth.high - growth.low > WHOLE_WIDTH:
        return growth
    bases = sorted(each.use[growth.metric] - whole * each.connections for each in known)
    middle = bases[len(bases) // 2]
    off = max(bases[-1] - middle, middle - bases[0])
    return replace(
        growth,
        base=middle,
        base_low=middle - off,
        base_high=middle + off,
        per_connection=float(whole),
        low=float(whole),
        high=float(whole),
        residual=0.0,
        center=0.0,
    )


def _span(readings: Sequence[Reading]) -> int:
    counts = [reading.connections for reading in readings]
    return max(counts) - min(counts)
