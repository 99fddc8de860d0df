"""One program for all probes at a hook: each is still compiled, kept and verified by itself.

The kernel takes some 30 ns to run a program at a tracepoint, and more where there are several, which it calls
by a list. So the bytecode of all is put behind a few instructions that call one after the other.
"""

import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence

from connprobe.kernel.attach import RETURN_0, Parts, load, open_link
from connprobe.kernel.btf import Btf
from connprobe.kernel.probe import Hook
from connprobe.kernel.programs import INSTRUCTION

_KEEP_CONTEXT = bytes.fromhex("bf16000000000000")  # r6 = r1, which calls leave as it is
_PASS_CONTEXT = bytes.fromhex("bf61000000000000")  # r1 = r6
_CALL = struct.Struct("=2Bhi")  # to the instruction that is so many after the next


def shared(rungs: Iterable[Sequence[Hook]]) -> set[str]:
    """The labels of hooks at which several of these can be joined: their programs see typed arguments."""
    rungs_at: dict[str, int] = defaultdict(int)
    for hooks in rungs:
        for hook in hooks:
            rungs_at[hook.label] += hook.typed
    return {label for label, count in rungs_at.items() if count > 1}


def joined(codes: Sequence[bytes]) -> bytes:
    """A program that runs them in turn with its context."""
    head = 2 * len(codes) + 3
    starts = [head + sum(len(code) // INSTRUCTION for code in codes[:i]) for i in range(len(codes))]
    calls = [
        _PASS_CONTEXT + _CALL.pack(0x85, 1 << 4, 0, start - (2 * i + 2) - 1) for i, start in enumerate(starts)
    ]
    return b"".join([_KEEP_CONTEXT, *calls, RETURN_0, *codes])


def join(members: Sequence[tuple[Parts, Hook]], btf: Btf) -> None:
    """Attach one program for them all, in place of the one that each has loaded. Refused: they are as before.

    Each gets descriptors of its own, so that the program runs as long as any probe does.
    """
    first, hook = members[0]
    program = load(joined([parts.code[mine.program] for parts, mine in members]), first.license, hook, btf)
    try:
        link = open_link(hook, program)
        try:
            for parts, mine in members:
                parts.replace(("program", mine.program), program)
                parts.replace(("hook", mine.label), link)
        finally:
            os.close(link)
    finally:
        os.close(program)
