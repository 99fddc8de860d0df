"""The stock of a run, made before its workers are."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from connprobe.engine.task import Task
from connprobe.plan.capacity import FD_RESERVE
from connprobe.plan.stock import deal_out


@contextmanager
def stocked(tasks: Sequence[Task], nofile: int) -> Iterator[tuple[list[Task], int]]:
    """The tasks with what each is dealt, and the descriptor that the workers take the rest from.

    It is theirs under the same number, and closed here at the end: by then they have it.
    """
    parts, tickets = deal_out([task.share for task in tasks], nofile - FD_RESERVE)
    reads, writes = os.pipe()
    try:
        try:
            os.set_blocking(writes, False)
            if os.write(writes, tickets) != len(tickets):
                raise OSError("a pipe takes no 4,096 bytes")  # on Linux it does (PIPE_BUF)
        finally:
            os.close(writes)
        yield (
            [
                task._replace(goal=part.goal, share=part.most, stock=reads)
                for task, part in zip(tasks, parts, strict=True)
            ],
            reads,
        )
    finally:
        os.close(reads)
