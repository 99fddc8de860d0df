"""Probes that a test writes itself."""

from collections.abc import Callable

from connprobe.kernel.btf import Field
from connprobe.kernel.loader import Loaded, Unavailable
from connprobe.kernel.probe import Hook, Probe, Rung

HOOK = Hook("raw_tracepoint", "inet_sock_set_state", "count")
PLAIN = "RAW_TRACEPOINT(count) { return 0; }"

Write = Callable[..., Probe]


def rung(name: str, hook: Hook = HOOK, *fields: Field, **defines: int) -> Rung:
    return Rung(name, (hook,), fields, defines)


def unavailable(loaded: Loaded, name: str) -> Unavailable:
    probe = loaded[name]
    assert isinstance(probe, Unavailable)
    return probe
