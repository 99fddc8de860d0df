"""Tasks of workers, with what most tests do not care for left out."""

import os
from typing import Any

from connprobe.engine.task import Task


def a_task(**given: Any) -> Task:
    """What is not given is None."""
    values: dict[str, Any] = dict.fromkeys(Task._fields)
    return Task(**(values | given))


def stock_of(*tickets: int) -> int:
    """The end that a worker takes them from."""
    reads, writes = os.pipe()
    os.write(writes, bytes(tickets))
    os.close(writes)
    return reads
