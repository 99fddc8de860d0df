"""Probes in the running kernel, and real sockets for them to look at."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from connprobe.kernel.live import Live
from connprobe.kernel.loader import Loaded, Unavailable
from connprobe.kernel.loader import load as load_probes
from kernel.sockets import Load, Sockets


def live(loaded: Loaded, name: str) -> Live:
    """The probe, or a skip that says why not and what to do."""
    probe = loaded[name]
    if isinstance(probe, Unavailable):
        if probe.refused:
            pytest.fail(f"no rung of {name} serves on this kernel: {probe.reason}")
        pytest.skip(f"{probe.reason}: {probe.fix}")
    return probe


@pytest.fixture
def load() -> Iterator[Load]:
    """load(probe) -> Live, detached when the test is over."""
    with ExitStack() as stack:
        yield lambda probe: live(stack.enter_context(load_probes([probe])), probe.name)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()
