"""Probes in the running kernel, and real sockets for them to look at."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from connprobe.data import data_dir
from connprobe.kernel.live import Live
from connprobe.kernel.loader import Loaded
from connprobe.kernel.loader import load as load_probes
from connprobe.kernel.probe import Probe, Refusal, Rung
from kernel.sockets import SLOW_S, Load, Sockets, other_namespace
from kernel.written import PLAIN, Write, rung


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(2 * SLOW_S))


def live(loaded: Loaded, name: str) -> Live:
    """The probe, or a skip that says why not and what to do."""
    probe = loaded[name]
    if isinstance(probe, Live):
        return probe
    if probe.fix is not None:
        pytest.skip(f"{probe.reason}: {probe.fix}")
    if probe.refused and all(map(_is_the_kernels, probe.refused)):
        pytest.skip(f"{probe.reason}: run the tests on a kernel that has it, such as scripts/kernels boots")
    pytest.fail(f"{name} could not be loaded: {probe.reason}")


def _is_the_kernels(refusal: Refusal) -> bool:
    """Some kernels, of sandboxes, have functions and let none be traced."""
    forbidden = refusal.reason.endswith(("Operation not permitted", "Unknown error 524"))  # ENOTSUPP
    return (forbidden and refusal.rung.startswith("fexit ")) or refusal.reason.startswith(
        "this kernel has no "
    )


def _load() -> Iterator[Load]:
    with ExitStack() as stack:
        yield lambda probe: live(stack.enter_context(load_probes([probe], timeout_s=SLOW_S)), probe.name)


# load(probe) -> Live, detached when the test is over, or the module: compiling takes 0.3 s, and 10 s and
# more on a processor that is emulated. A probe may serve several tests, each with listeners of its own.
load = pytest.fixture(_load, name="load")
load_once = pytest.fixture(_load, scope="module", name="load_once")


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.fixture
def namespace() -> Iterator[None]:
    """The test runs in a network namespace of its own."""
    with other_namespace():
        yield


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, C text, rungs) -> Probe, whose text is in tmp_path."""
    shutil.copy(data_dir("probes") / "common.bpf.h", tmp_path)

    def one(name: str, text: str, *rungs: Rung) -> Probe:
        (tmp_path / f"{name}.bpf.c").write_text(text)
        return Probe(name, rungs or (rung("only"),))

    return one


@pytest.fixture(scope="module")
def possible(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips, with the remedy, where not even the least of probes can be loaded."""
    place = tmp_path_factory.mktemp("probes")
    shutil.copy(data_dir("probes") / "common.bpf.h", place)
    (place / "least.bpf.c").write_text(PLAIN)
    with load_probes([Probe("least", (rung("only"),))], directory=place, timeout_s=SLOW_S) as loaded:
        live(loaded, "least")
