"""How far a ramp goes next: in equal steps up to the count, and then on to where the server breaks."""

from collections.abc import Sequence
from typing import Final

from connprobe.model import Limit

# Of what was predicted, from here on in small steps, with a rest after each: memory may end early, as it is
# approached, and a table that is kept to the letter may be defended: nginx closes connections whose request
# is still under way once 15/16 of its table is taken.
NEAR: Final = {True: 0.7, False: 0.9}
APPROACHED: Final = frozenset({"heap", "memory", "cgroup_memory"})
LARGE, SMALL = 0.05, 0.01  # of what was predicted: connections that come in a crowd may cost more
BLIND = 0.02  # of the most that may be opened, where nothing was predicted


def steps(count: int, number: int) -> tuple[int, ...]:
    """Connections after each of `number` equal steps; fewer where there are fewer connections."""
    return tuple(sorted({-(-count * step // number) for step in range(1, number + 1)}))


def shares(total: int, capacities: Sequence[int], before: Sequence[int] | None = None) -> list[int]:
    """`total` connections over workers with room for `capacities`; none has less than it had `before`.

    What is new goes to each in proportion to the room that it has left.
    """
    goals = list(before or [0] * len(capacities))
    free = [capacity - goal for capacity, goal in zip(capacities, goals, strict=True)]
    room, new = sum(free), total - sum(goals)
    passed = dealt = 0
    for index, each in enumerate(free):
        passed += each
        upto = min(new, room) * passed // room if room and new > 0 else 0
        goals[index] += upto - dealt
        dealt = upto
    return goals


def is_near(held: int, predicted: Limit | None) -> bool:
    return predicted is not None and held >= _near(predicted)


def _near(predicted: Limit) -> int:
    return int(NEAR[predicted.resource in APPROACHED] * predicted.connections)


def next_goal(held: int, predicted: Limit | None, most: int) -> int:
    """Where --verify ramps to from `held`, at most to `most`."""
    if predicted is None:
        return min(most, held + max(1, int(BLIND * most)))
    if is_near(held, predicted):
        return min(most, held + max(1, int(SMALL * predicted.connections)))
    large = held + max(1, int(LARGE * predicted.connections))
    return min(most, large, max(held + 1, _near(predicted)))
