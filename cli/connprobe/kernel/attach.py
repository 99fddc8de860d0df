"""Creates a rung's maps, loads its programs and attaches them, with bpf(2) alone: no bcc, no libbpf."""

import ctypes
import errno
import fcntl
import os
import platform
import resource
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from connprobe.kernel import bpf
from connprobe.kernel.btf import Btf, Missing
from connprobe.kernel.probe import Hook
from connprobe.kernel.programs import INSTRUCTION, MapPlan, Programs
from connprobe.kernel.tracefs import tracepoint_id

_MAP_CREATE, _PROG_LOAD, _RAW_TRACEPOINT_OPEN, _LINK_CREATE = 0, 5, 17, 28
_TRACING, _TRACE_RAW_TRACEPOINT = 26, 23  # a bpf_prog_type, and enum bpf_attach_type
_ATTACH_TYPES = {"fexit": 25, "iter": 28}  # enum bpf_attach_type
_PROGRAM_TYPES = {"raw_tracepoint": 17, "tracepoint": 5, "iter": _TRACING, "call": 17}  # enum bpf_prog_type
RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")
_LOAD_ADDRESS, _OF_MAP = 0x18, 1  # BPF_LD | BPF_DW | BPF_IMM; BPF_PSEUDO_MAP_FD, the source register
_NAME = 15  # BPF_OBJ_NAME_LEN, less the 0
_LOG_BYTES = 1 << 20
_LONGEST_REASON = 2000
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_PERF_TYPE_TRACEPOINT, _PERF_SAMPLE_RAW, _PERF_FLAG_FD_CLOEXEC = 2, 1 << 10, 8
_SET_BPF, _ENABLE = (
    (0x80042408, 0x20002400) if platform.machine() == "ppc64le" else (0x40042408, 0x2400)
)  # PERF_EVENT_IOC_


class Refused(Exception):
    """A rung that cannot serve, with the reason as the kernel gave it."""


class Parts:
    """A rung in the kernel. fds: by kind ("map", "program", "hook") and name; code: of each program."""

    def __init__(self, terms: str) -> None:
        self.fds: dict[tuple[str, str], int] = {}
        self.code: dict[str, bytes] = {}
        self.license = terms

    def replace(self, key: tuple[str, str], fd: int) -> None:
        """With a descriptor of its own for the same."""
        mine = os.dup(fd)
        if key in self.fds:
            os.close(self.fds[key])
        self.fds[key] = mine

    def close(self) -> None:
        for fd in reversed(self.fds.values()):
            os.close(fd)
        self.fds = {}


def prepare(programs: Programs, hooks: Sequence[Hook], btf: Btf) -> Parts:
    """Create the maps and load the programs. Refused: and nothing of it is left."""
    parts = Parts(programs.license)
    try:
        with _locked_memory():
            for plan in programs.maps:
                with _said(f"creating the map {plan.name}"):
                    parts.fds["map", plan.name] = _create_map(plan)
            maps = [parts.fds["map", plan.name] for plan in programs.maps]
            for hook in hooks:
                if ("program", hook.program) not in parts.fds:
                    if hook.program not in programs.code:
                        raise Refused(f"loading {hook.program}: there is no such program")
                    code = parts.code[hook.program] = _linked(programs.code[hook.program], maps)
                    parts.fds["program", hook.program] = load(code, programs.license, hook, btf)
    except BaseException:
        parts.close()
        raise
    return parts


def attach(parts: Parts, hooks: Iterable[Hook]) -> None:
    """Those that are not attached yet. Refused: and nothing of the rung is left."""
    try:
        for hook in hooks:
            if hook.kind != "call" and ("hook", hook.label) not in parts.fds:
                parts.fds["hook", hook.label] = open_link(hook, parts.fds["program", hook.program])
    except BaseException:
        parts.close()
        raise


@contextmanager
def _said(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{doing}: {error.strerror or error}") from None


@contextmanager
def _locked_memory() -> Iterator[None]:
    """Before Linux 5.11 maps and programs count as locked memory, of which little is allowed."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):  # without CAP_SYS_RESOURCE: newer kernels do not ask
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


def _create_map(plan: MapPlan) -> int:
    numbers = (plan.kind, plan.key_size, plan.value_size, plan.max_entries, plan.flags, 0, 0)
    attributes = bpf.attributes("7I", *numbers)
    struct.pack_into(f"{_NAME}s", attributes, struct.calcsize("7I"), plan.name.encode())
    return bpf.call(_MAP_CREATE, attributes)


def load(code: bytes, terms: str, hook: Hook, btf: Btf) -> int:
    """The descriptor of a program for this hook; terms: its license. Refused."""
    doing = f"loading {hook.program}"
    target = 0
    try:
        if hook.kind == "iter":
            target = btf.function(f"bpf_iter_{hook.target}")
        elif hook.kind == "fexit":
            target = btf.function(hook.target)
        elif hook.typed:
            target = btf.tracepoint_id(hook.target)
    except Missing as error:
        raise Refused(f"{doing}: {error}") from None
    buffer = ctypes.create_string_buffer(code, len(code))
    try:
        return _verify(hook, buffer, terms, target, None)
    except OSError as first:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:  # once more, asking for the reason
            return _verify(hook, buffer, terms, target, log)
        except OSError:
            lines = [line.strip() for line in log.value.decode(errors="replace").splitlines() if line.strip()]
            told = [line for line in lines if not line.startswith("processed ")][-2:]
            reason = "; ".join([f"{doing}: {first.strerror}", *told])
            raise Refused(reason[:_LONGEST_REASON]) from None


def _verify(
    hook: Hook,
    code: ctypes.Array[ctypes.c_char],
    terms: str,
    target: int,
    log: ctypes.Array[ctypes.c_char] | None,
) -> int:
    license_text = ctypes.create_string_buffer(terms.encode())
    level, room, text = (0, 0, 0) if log is None else (1, len(log), ctypes.addressof(log))
    attributes = bpf.attributes(
        "2I2Q2IQ2I16x2I",
        _TRACING if hook.typed else _PROGRAM_TYPES[hook.kind],
        len(code) // INSTRUCTION,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        level,
        room,
        text,
        0,
        0,
        0,
        _ATTACH_TYPES.get(hook.kind, _TRACE_RAW_TRACEPOINT if hook.typed else 0),
    )
    struct.pack_into(f"{_NAME}s", attributes, 48, hook.program.encode())
    struct.pack_into("I", attributes, 108, target)  # attach_btf_id
    return bpf.call(_PROG_LOAD, attributes)


def _linked(code: bytes, maps: Sequence[int]) -> bytes:
    """With descriptors in place of the maps' indices."""
    linked = bytearray(code)
    at = 0
    while at < len(linked):
        wide = linked[at] == _LOAD_ADDRESS
        if wide and linked[at + 1] >> 4 == _OF_MAP:
            (index,) = struct.unpack_from("i", linked, at + 4)
            if not 0 <= index < len(maps):
                raise Refused(f"its bytecode uses map {index} of {len(maps)}")
            struct.pack_into("i", linked, at + 4, maps[index])
        at += INSTRUCTION * (2 if wide else 1)
    return bytes(linked)


def try_to_load(hook: Hook, btf: Btf) -> None:
    """Whether the kernel lets a program be loaded for this hook at all. Refused."""
    with _locked_memory():
        os.close(load(RETURN_0, "GPL", hook, btf))


def open_link(hook: Hook, program: int) -> int:
    """Attach; the program runs until the descriptor is closed. Refused."""
    with _said(f"attaching {hook.label}"):
        return _attach(hook, program)


def _attach(hook: Hook, program: int) -> int:
    if hook.kind == "tracepoint":
        return _attach_tracepoint(hook.target, program)
    if hook.kind == "iter":
        return bpf.call(_LINK_CREATE, bpf.attributes("4I", program, 0, _ATTACH_TYPES["iter"], 0))
    if hook.typed:  # its program knows where
        return bpf.call(_RAW_TRACEPOINT_OPEN, bpf.attributes("QI", 0, program))
    name = ctypes.create_string_buffer(hook.target.encode())
    return bpf.call(_RAW_TRACEPOINT_OPEN, bpf.attributes("QI", ctypes.addressof(name), program))


def _attach_tracepoint(target: str, program: int) -> int:
    """By a perf event, which is asked for on one CPU: its program runs on all."""
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"perf_event_open(2) on {platform.machine()} is not known here")
    event = ctypes.create_string_buffer(
        128
    )  # struct perf_event_attr: type, size, config, period, sample_type
    struct.pack_into("2I3Q", event, 0, _PERF_TYPE_TRACEPOINT, 128, tracepoint_id(target), 1, _PERF_SAMPLE_RAW)
    cpu = min(os.sched_getaffinity(0))
    fd = bpf.system_call(number, ctypes.byref(event), -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SET_BPF, program)
        fcntl.ioctl(fd, _ENABLE, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd
