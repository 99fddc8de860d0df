"""What a probe is: its C file, the kernel's hooks it may stand on, and the fields it reads."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from connprobe.kernel.btf import Field


class Hook(NamedTuple):
    """Where a program runs.

    kind            target                                              program in C
    raw_tracepoint  a tracepoint: "inet_sock_set_state"                 RAW_TRACEPOINT(name)
    tracepoint      one of a system call: "syscalls:sys_exit_accept4"   SYSCALL_EXIT(name)
    fexit           a kernel function, at its return: "inet_accept"     RAW_TRACEPOINT(name), last the result
    iter            a BPF iterator: "tcp"                               bpf_iter__tcp
    call            nothing: the reader runs it (`Live.call`)           RAW_TRACEPOINT(name)
    """

    kind: Literal["raw_tracepoint", "tracepoint", "fexit", "iter", "call"]
    target: str
    program: str
    arguments: tuple[str, ...] | None = None  # as Btf.tracepoint or Btf.arguments gives them: checked
    typed: bool = False  # the verifier knows their types, so that LOAD works: none of them may be null

    @property
    def label(self) -> str:
        """By which `Live.hooks` names it."""
        return f"{self.kind} {self.target}"


class Rung(NamedTuple):
    """One way to answer a probe's question. `defines` tell the C file which one it is."""

    name: str
    hooks: tuple[Hook, ...]
    fields: tuple[Field, ...]
    defines: Mapping[str, int] = {}


class Probe(NamedTuple):
    """`name` is the stem of probes/<name>.bpf.c. Rungs in order of preference; `defines` hold for all."""

    name: str
    rungs: tuple[Rung, ...]
    defines: Mapping[str, int] = {}


class Refusal(NamedTuple):
    """Why a rung, or a whole probe, does not serve."""

    rung: str
    reason: str
