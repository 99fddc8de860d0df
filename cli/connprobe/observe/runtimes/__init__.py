"""What a managed runtime's heap holds, after a collection, and at which size it gives up.

RSS does not tell: a heap grows far beyond what is live in it before it is collected. One module for each
runtime; docs/runtimes.md says how each is read and what that costs the server.
"""

from collections.abc import Sequence

from connprobe.observe.runtimes import preloaded
from connprobe.observe.runtimes.interface import Attached, HeapReading, HeapUnknown, Runtime
from connprobe.observe.runtimes.node import ENDED, Node
from connprobe.observe.runtimes.preloaded import Preparation, prepare

__all__ = ["Attached", "HeapReading", "HeapUnknown", "Preparation", "Runtime", "attach", "prepare"]


def attach(pids: Sequence[int], prepared: Preparation | None, *, inspect: bool) -> Attached:
    """The runtime of the server that consists of `pids`; ask once it has started up.

    prepared: what its environment was prepared with. inspect: a debugger may be opened in it for a moment.
    """
    try:
        if prepared is not None:
            return Attached(
                Node(lambda collect: preloaded.heaps(prepared.directory, pids, collect=collect)), None
            )
    except HeapUnknown as error:
        if error.reason != ENDED:
            return Attached(None, error.reason)
    return Attached(None, "no runtime with a heap of its own was recognised in the server")
