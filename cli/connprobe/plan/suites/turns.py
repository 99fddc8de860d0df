"""The order of turns: what changes on a machine meanwhile has to meet all contestants alike."""

from collections.abc import Sequence

from connprobe.model.bout import Turn
from connprobe.model.suite import Suite, serves


def turns(suite: Suite, sizes: Sequence[int], repeats: int, takes_part: Sequence[bool]) -> list[Turn]:
    """Every bout, in order: within a round, size and workload the contestants follow each other at once.

    In the next round another one is first. takes_part: of each contestant of the suite.
    """
    found = []
    for number in range(repeats):
        for size in sizes:
            for workload in suite.workloads:
                names = [
                    each.name
                    for each, present in zip(suite.contestants, takes_part, strict=True)
                    if present and serves(each, workload)
                ]
                first = number % len(names) if names else 0
                found += [
                    Turn(workload.name, size, name, number + 1) for name in names[first:] + names[:first]
                ]
    return found
