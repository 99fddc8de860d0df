"""The probes of a run, loaded together: one process compiles them all, once for each kernel."""

from connprobe.kernel import (
    accept_queue,
    accept_wait,
    lifecycle,
    memory_pressure,
    net_cpu,
    socket_census,
    syn_queue,
)
from connprobe.kernel.loader import Loaded, load
from connprobe.kernel.probe import Probe
from connprobe.store.kept import Kept, cache_directory


def all_probes(*, system_calls: bool = False) -> tuple[Probe, ...]:
    """system_calls: time in those of watched processes too, at the expense of each one of the machine."""
    return (
        accept_queue.probe(),
        accept_wait.probe(),
        syn_queue.probe(),
        lifecycle.probe(),
        net_cpu.probe(system_calls),
        memory_pressure.probe(),
        socket_census.probe(),
    )


def load_probes(*, system_calls: bool = False) -> Loaded:
    """All of them. Takes a second or two where they must be compiled, a tenth of it where they are kept.

    What the machine lacks is said by each, never raised.
    """
    directory = cache_directory()
    keep = None if directory is None else Kept(directory)
    return load(all_probes(system_calls=system_calls), keep=keep)
