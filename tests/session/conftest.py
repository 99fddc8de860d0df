"""Real listeners, and the probes in the running kernel for those who look at them."""

from collections.abc import Iterator

import pytest

from connprobe.kernel.live import Live
from connprobe.kernel.loader import Loaded
from connprobe.session.kernelview import load_probes
from kernel.sockets import Sockets


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


def _load() -> Iterator[Loaded]:
    """All probes of a run; a test without them is skipped with the remedy."""
    with load_probes() as probes:
        for probe in probes.probes.values():
            if not isinstance(probe, Live):
                pytest.skip(f"{probe.reason}: {probe.fix or 'run the tests on a kernel that has it'}")
        yield probes


# For several tests, as each looks at listeners of its own; or for one that tears them, or came before them.
loaded = pytest.fixture(_load, scope="module", name="loaded")
fresh = pytest.fixture(_load, name="fresh")
