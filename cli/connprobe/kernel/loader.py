"""Loads probes into the kernel: checks privilege and fields, has them compiled, says what became of each.

`load` never raises for what the machine lacks: a probe that cannot serve is `Unavailable`, with its reason.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from connprobe.data import data_dir
from connprobe.kernel.btf import Btf, Missing
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Probe, Refusal, Rung
from connprobe.kernel.spawn import compile_probes, default_pythons
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

    def __init__(self, probes: Mapping[str, Live | Unavailable], bcc: str | None) -> None:
        self.probes = dict(probes)
        self.bcc = bcc  # its version, and the Python that has it

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
) -> Loaded:
    """Compile, load and attach each probe on its first rung that serves.

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
    prepared = {probe.name: _prepare(probe, btf, directory) for probe in probes}
    jobs = [{"name": name, "rungs": rungs} for name, (rungs, _) in prepared.items() if rungs]
    if not jobs:
        return Loaded({name: _refused(name, refused) for name, (_, refused) in prepared.items()}, None)
    compiled = compile_probes(jobs, default_pythons() if pythons is None else pythons, timeout_s)
    results: dict[str, Live | Unavailable] = {}
    rung_names = {probe.name: [rung.name for rung in probe.rungs] for probe in probes}
    for name, (rungs, refused) in prepared.items():
        answer = compiled.answers.get(name)
        if answer is None and rungs:
            results[name] = Unavailable(name, compiled.reason, compiled.fix, refused)
        elif answer is None or answer.rung is None:
            results[name] = _refused(name, refused + (answer.refused if answer else ()))
        else:
            order = rung_names[name]
            better = order[: order.index(answer.rung)]
            worse_left_out = tuple(one for one in refused + answer.refused if one.rung in better)
            results[name] = Live(name, answer.rung, worse_left_out, answer.fds)
    return Loaded(results, compiled.bcc)


def _lacking_privilege(status: str) -> tuple[str, str] | None:
    """(reason, fix) where the effective capabilities do not allow tracing programs."""
    held = set(effective_capabilities(status))
    if "CAP_SYS_ADMIN" in held or {"CAP_BPF", "CAP_PERFMON"} <= held:
        return None
    lacks = " and ".join(sorted({"CAP_BPF", "CAP_PERFMON"} - held))
    return f"eBPF needs CAP_BPF and CAP_PERFMON, and {lacks} is not held", "run it as root (sudo)"


def _prepare(probe: Probe, btf: Btf, directory: Path) -> tuple[list[dict[str, Any]], tuple[Refusal, ...]]:
    """The rungs for which this kernel has fields and tracepoints, ready to compile; why not the others."""
    ready, refused = [], []
    for rung in probe.rungs:
        try:
            text = _text(probe, rung, btf, directory)
        except Missing as error:
            refused.append(Refusal(rung.name, str(error)))
            continue
        hooks = [{"kind": hook.kind, "target": hook.target, "program": hook.program} for hook in rung.hooks]
        ready.append({"name": rung.name, "text": text, "hooks": hooks})
    return ready, tuple(refused)


def _text(probe: Probe, rung: Rung, btf: Btf, directory: Path) -> str:
    """The C text. Missing: a field or tracepoint that the kernel lacks, or has in another shape."""
    for hook in rung.hooks:
        if hook.kind == "raw_tracepoint":
            arguments = btf.tracepoint(hook.target)
            if hook.arguments is not None and arguments[: len(hook.arguments)] != hook.arguments:
                raise Missing(f"tracepoint {hook.target} has the arguments {arguments} in this kernel")
    defines = {**probe.defines, **rung.defines, **{one.macro: btf.offset(one) for one in rung.fields}}
    parts = [f"#define {name} {value}\n" for name, value in defines.items()]
    for name in (_COMMON, f"{probe.name}.bpf.c"):
        parts.append(f'#line 1 "probes/{name}"\n{(directory / name).read_text()}\n')
    return "".join(parts)


def _refused(name: str, refused: tuple[Refusal, ...]) -> Unavailable:
    return Unavailable(name, "; ".join(f"{one.rung}: {one.reason}" for one in refused), None, refused)


def _without(probes: Sequence[Probe], reason: str, fix: str | None) -> Loaded:
    return Loaded({probe.name: Unavailable(probe.name, reason, fix) for probe in probes}, None)
