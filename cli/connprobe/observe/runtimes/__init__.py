"""What a managed runtime's heap holds, after a collection, and at which size it gives up.

RSS does not tell: a heap grows far beyond what is live in it before it is collected. One module for each
runtime; docs/runtimes.md says how each is read and what that costs the server.
"""

import re
from collections.abc import Sequence
from functools import partial

from connprobe.observe.runtimes import inspected, preloaded
from connprobe.observe.runtimes.interface import Attached, HeapReading, HeapUnknown, Runtime
from connprobe.observe.runtimes.jvm import Jvm
from connprobe.observe.runtimes.node import Node
from connprobe.observe.runtimes.preloaded import Preparation, prepare
from connprobe.observe.runtimes.recognise import Recognised, environment_variable, is_helper, recognise

__all__ = ["Attached", "HeapReading", "HeapUnknown", "Preparation", "Runtime", "attach", "prepare"]

NO_LIMIT = "has no heap limit of its own: memory ends at its cgroup's or the host's"


def attach(pids: Sequence[int], prepared: Preparation | None, *, inspect: bool) -> Attached:
    """The runtime of the server that consists of `pids`; ask once it has started up.

    prepared: what its environment was prepared with. inspect: one that runs already may be stopped for
    collections, and Node's inspector be opened for them.
    """
    try:
        if prepared is not None:
            ask = partial(preloaded.heaps, prepared.directory, pids, set())
            if ask(collect=False):
                return Attached(Node(ask), None)
        return _recognised(_kinds(pids), prepared is not None, inspect)
    except HeapUnknown as error:
        return Attached(None, error.reason)


def _kinds(pids: Sequence[int]) -> dict[int, Recognised]:
    """Of each process that is known, by its pid. Raises HeapUnknown where none can be looked at."""
    found = {}
    denied = []
    for pid in pids:
        try:
            kind = recognise(pid)
            if kind is not None and kind.kind == "node" and is_helper(pid):
                continue
        except PermissionError:
            denied.append(pid)
        except OSError:
            continue  # it has ended
        else:
            if kind is not None:
                found[pid] = kind
    if denied and not found:
        raise HeapUnknown(f"process {denied[0]} is another user's: run as root")
    return found


def _recognised(kinds: dict[int, Recognised], prepared: bool, inspect: bool) -> Attached:
    """Those with a limit of their own come first: beside them, others start and watch them."""
    node = [pid for pid, found in kinds.items() if found.kind == "node"]
    if node and inspect:
        return Attached(Node(partial(inspected.heaps, node)), None)
    if node and prepared:
        return Attached(
            None,
            f"process {node[0]} does not answer about its heap: NODE_OPTIONS was replaced on the way to it, "
            "or it became another user by itself; started by hand, --inspect asks it through its inspector",
        )
    if node:
        return Attached(None, f"process {node[0]} runs Node: --inspect reads its heap through its inspector")
    jvms = [pid for pid, found in kinds.items() if found.kind == "jvm"]
    if jvms and (prepared or inspect):
        return Attached(Jvm(jvms), None)
    if jvms:
        return Attached(None, f"process {jvms[0]} runs a JVM: --inspect reads its heap by jcmd")
    for pid, found in kinds.items():
        if found.kind == "cpython":
            return Attached(None, f"CPython {found.version or ''}".strip() + f" {NO_LIMIT}")
        if found.kind == "go":
            return Attached(None, f"Go {NO_LIMIT}{_soft_limit(pid)}")
    return Attached(None, "no runtime with a heap of its own was recognised in the server")


def _soft_limit(pid: int) -> str:
    """GOMEMLIMIT: Go collects ever more often as it comes near, and then goes on beyond it."""
    try:
        value = environment_variable(pid, "GOMEMLIMIT")
    except OSError:
        return ""
    if value is None or not re.fullmatch(r"\d{1,20}(?:[KMGT]i)?B?", value):
        return ""
    return f"; GOMEMLIMIT={value} is a soft one: near it, collecting takes up to half of the CPU, no more"
