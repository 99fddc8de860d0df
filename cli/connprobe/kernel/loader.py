"""Loads probes into the kernel: checks privilege and fields, gets their programs, says what became of each.

`load` never raises for what the machine lacks: a probe that cannot serve is `Unavailable`, with its reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from connprobe.data import data_dir
from connprobe.kernel.attach import Parts, Refused, attach, prepare, try_to_load
from connprobe.kernel.btf import Btf, Missing
from connprobe.kernel.join import join, shared
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Hook, Probe, Refusal, Rung
from connprobe.kernel.programs import Keep
from connprobe.kernel.source import Candidate, Source
from connprobe.kernel.spawn import default_pythons
from connprobe.plan.capabilities import effective_capabilities

TIMEOUT_S = 30
_COMMON = "common.bpf.h"


class Unavailable(NamedTuple):
    """A probe that does not run: every figure of it is unknown, for this reason."""

    name: str
    reason: str
    fix: str | None = None
    refused: tuple[Refusal, ...] = ()


class Loaded:
    """The probes by name, each `Live` or `Unavailable`. A context manager: leaving it detaches all."""

    def __init__(self, probes: Mapping[str, Live | Unavailable]) -> None:
        self.probes = dict(probes)

    def __getitem__(self, name: str) -> Live | Unavailable:
        return self.probes[name]

    def __enter__(self) -> "Loaded":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for probe in self.probes.values():
            if isinstance(probe, Live):
                probe.close()


def load(
    probes: Sequence[Probe],
    *,
    btf: Btf | None = None,
    pythons: Sequence[str] | None = None,
    status: str | None = None,
    directory: Path | None = None,
    timeout_s: int = TIMEOUT_S,
    keep: Keep | None = None,
) -> Loaded:
    """Load and attach each probe on its first rung that serves, compiled now or taken from `keep`.

    Unless given: btf is the kernel's own, pythons those that may have bcc, status the text of
    /proc/self/status (for capabilities), directory probes/.
    """
    lacking = _lacking_privilege(Path("/proc/self/status").read_text() if status is None else status)
    if lacking is not None:
        return _without(probes, *lacking)
    try:
        btf = btf or Btf.of_kernel()
        directory = directory or data_dir("probes")
    except Missing as error:
        return _without(probes, str(error), "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y")
    except FileNotFoundError as error:
        return _without(probes, str(error), None)
    prepared = {
        probe.name: _Prepared([rung.name for rung in probe.rungs], *candidates(probe, btf, directory))
        for probe in probes
    }
    source = Source(btf, default_pythons() if pythons is None else pythons, timeout_s, keep)
    results: dict[str, Live | Unavailable] = {}
    try:
        _climb(prepared, source, btf, results)
    except BaseException:
        Loaded(results).close()
        raise
    order = [probe.name for probe in probes]
    return Loaded({name: results[name] for name in order})


def _climb(
    prepared: Mapping[str, "_Prepared"], source: Source, btf: Btf, results: dict[str, Live | Unavailable]
) -> None:
    """Try the rungs of all probes, the next one of each at a time: one run of the compiler for them all."""
    while waiting := {name: each for name, each in prepared.items() if name not in results}:
        turn = {name: each.ready.pop(0) for name, each in waiting.items() if each.ready}
        source.obtain(turn.values())
        served: dict[str, Parts] = {}
        try:
            for name, each in waiting.items():
                if name not in turn:
                    reason = "; ".join(f"{one.rung}: {one.reason}" for one in each.refused)
                    results[name] = Unavailable(name, reason, None, tuple(each.refused))
                    continue
                programs = source.programs(turn[name])
                if programs is None:
                    results[name] = Unavailable(name, source.reason, source.fix, tuple(each.refused))
                    continue
                with each.noting(turn[name]):
                    if isinstance(programs, str):
                        raise Refused(programs)
                    served[name] = prepare(programs, turn[name].rung.hooks, btf)
            _attach(served, turn, prepared, btf)
        except BaseException:
            for parts in served.values():
                parts.close()
            raise
        for name, parts in served.items():
            rung = turn[name].rung.name
            refused = prepared[name].refused_before(rung)
            results[name] = Live(name, rung, refused, parts.fds, source.told(turn[name]))


def _attach(
    served: dict[str, Parts], turn: Mapping[str, Candidate], prepared: Mapping[str, "_Prepared"], btf: Btf
) -> None:
    """What cannot be attached is taken out. Hooks of several probes come last: those that are left join."""
    several = shared(turn[name].rung.hooks for name in served)

    def attach_all(alone: Callable[[Hook], bool]) -> None:
        for name, parts in list(served.items()):
            with prepared[name].noting(turn[name]):
                attach(parts, [hook for hook in turn[name].rung.hooks if alone(hook)])
                continue
            del served[name]

    attach_all(lambda hook: hook.label not in several)
    for label in several:
        members = [
            (parts, hook)
            for name, parts in served.items()
            for hook in turn[name].rung.hooks
            if hook.typed and hook.label == label
        ]
        with suppress(Refused):  # then each is attached by itself: merely slower
            if len(members) > 1:
                join(members, btf)
    attach_all(lambda hook: True)


def _lacking_privilege(status: str) -> tuple[str, str] | None:
    """(reason, fix) where the effective capabilities do not allow tracing programs."""
    held = set(effective_capabilities(status))
    if "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= held:
        return None
    lacks = sorted({"CAP_BPF", "CAP_PERFMON"} - held)
    which = "neither is" if len(lacks) == 2 else f"{lacks[0]} is not"
    return f"eBPF needs CAP_BPF and CAP_PERFMON, and {which} held", "run it as root (sudo)"


class _Prepared(NamedTuple):
    order: list[str]  # the names of all rungs
    ready: list[Candidate]  # those to be tried yet
    refused: list[Refusal]

    @contextmanager
    def noting(self, candidate: Candidate) -> Iterator[None]:
        """A refusal within is put down, and is over."""
        try:
            yield
        except Refused as error:
            self.refused.append(Refusal(candidate.rung.name, str(error)))

    def refused_before(self, rung: str) -> tuple[Refusal, ...]:
        better = self.order[: self.order.index(rung)]
        return tuple(one for one in self.refused if one.rung in better)


def candidates(probe: Probe, btf: Btf, directory: Path) -> tuple[list[Candidate], list[Refusal]]:
    """The rungs for which this kernel has fields and hooks, ready to compile; why not the others."""
    ready: list[Candidate] = []
    refused: list[Refusal] = []
    for rung in probe.rungs:
        try:
            text = _text(probe, rung, btf, directory)
            for hook in rung.hooks:
                if hook.kind == "fexit":  # some kernels refuse all: better known before it is compiled
                    try_to_load(hook, btf)
            ready.append(Candidate(probe.name, rung, text))
        except (Missing, Refused) as error:
            refused.append(Refusal(rung.name, str(error)))
    return ready, refused


def _text(probe: Probe, rung: Rung, btf: Btf, directory: Path) -> str:
    """The C text. Missing: a field or tracepoint that the kernel lacks, or has in another shape."""
    for hook in rung.hooks:
        if hook.kind == "raw_tracepoint":
            arguments = btf.tracepoint(hook.target)
            if hook.arguments is not None and arguments[: len(hook.arguments)] != hook.arguments:
                raise Missing(f"tracepoint {hook.target} has the arguments {arguments} in this kernel")
        if hook.kind == "fexit" and (arguments := btf.arguments(hook.target)) != hook.arguments:
            raise Missing(f"this kernel has no {hook.target} with {hook.arguments}: it is with {arguments}")
    defines = {**probe.defines, **rung.defines, **{one.macro: btf.offset(one) for one in rung.fields}}
    parts = [f"#define {name} {value}\n" for name, value in defines.items()]
    for name in (_COMMON, f"{probe.name}.bpf.c"):
        parts.append(f'#line 1 "probes/{name}"\n{(directory / name).read_text()}\n')
    return "".join(parts)


def _without(probes: Sequence[Probe], reason: str, fix: str | None) -> Loaded:
    return Loaded({probe.name: Unavailable(probe.name, reason, fix) for probe in probes})
