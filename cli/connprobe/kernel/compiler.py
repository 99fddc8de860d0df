"""Compiles, loads and attaches the probes, hands their descriptors over and ends.

A script of its own, because bcc belongs to the distribution's Python and not to ours, and because its LLVM
takes 130 MB that may not stay in the process that samples. It needs the standard library and bcc alone:

    python3 -I compiler.py SOCKET WORK_DIRECTORY < job.json

SOCKET is the number of an inherited SOCK_SEQPACKET socket. Each message is a JSON object, with descriptors
(SCM_RIGHTS) in the order of its "fds". The kernel keeps what is attached for as long as these are open.
"""

import array
import ctypes
import importlib.util
import json
import os
import platform
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

LONGEST_REASON = 2000
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

# All that bcc 0.26 includes by itself from the kernel's headers, which this way need not be installed.
# Structs of the kernel are read by offset, so empty files do where nothing of them is used.
STUBS = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/types.h": """#pragma once
typedef unsigned char u8, __u8;
typedef unsigned short u16, __u16, __be16, __sum16, __le16;
typedef unsigned int u32, __u32, __be32, __wsum, __le32;
typedef unsigned long long u64, __u64, __be64, __le64;
typedef signed char s8, __s8;
typedef short s16, __s16;
typedef int s32, __s32, pid_t;
typedef long long s64, __s64;
typedef unsigned long size_t, uintptr_t;
typedef long ssize_t;
typedef _Bool bool;
typedef __u64 __aligned_u64 __attribute__((aligned(8)));
#define NULL ((void *)0)
enum { false = 0, true = 1 };
""",
    "linux/version.h": "#define LINUX_VERSION_CODE 0\n"
    "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))\n",
    "asm/page.h": "#define PAGE_SIZE 4096\n",
    **dict.fromkeys(
        (
            "asm/types.h",
            "linux/bpf_common.h",
            "linux/log2.h",
            "uapi/linux/bpf.h",
            "uapi/linux/if_packet.h",
        ),
        "",
    ),
}
PROGRAMS = {
    "raw_tracepoint": "RAW_TRACEPOINT",
    "tracepoint": "TRACEPOINT",
    "iter": "TRACING",
    "call": "RAW_TRACEPOINT",
}
ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "riscv64": "riscv",
    "ppc64le": "powerpc",
    "s390x": "s390",
}


class Refused(Exception):
    """A rung that cannot serve, with the reason as the compiler or the kernel gave it."""


class Rung:
    """One module of bcc: compiled, loaded and attached, or Refused and nothing of it left."""

    def __init__(self, bcc: Any, rung: dict[str, Any]) -> None:
        self._bcc, self._lib = bcc, bcc.lib
        self._own: list[int] = []
        self.fds: list[int] = []
        self.names: list[list[str]] = []  # beside each descriptor: its kind and its name
        try:
            self._load(rung)
        except BaseException:
            self.close()
            raise

    def _load(self, rung: dict[str, Any]) -> None:
        module = self._said("compiling", lambda: self._bcc.BPF(text=rung["text"]))
        for i in range(self._lib.bpf_num_tables(module.module)):
            name = self._lib.bpf_table_name(module.module, i).decode()
            self._give("map", name, self._lib.bpf_table_fd_id(module.module, i))
        programs: dict[str, int] = {}
        for hook in rung["hooks"]:
            name = hook["program"]
            if name not in programs:
                kind = getattr(self._bcc.BPF, PROGRAMS[hook["kind"]])
                programs[name] = self._said(f"loading {name}", lambda: module.load_func(name, kind).fd)  # noqa: B023
                self._give("program", name, programs[name])
        for hook in rung["hooks"]:
            if hook["kind"] == "call":
                continue
            label = f"{hook['kind']} {hook['target']}"
            link = self._said(f"attaching {label}", lambda: self._attach(hook, programs))  # noqa: B023
            self._own.append(link)
            self._give("hook", label, link)

    def _attach(self, hook: dict[str, str], programs: dict[str, int]) -> int:
        program, target = programs[hook["program"]], hook["target"]
        ctypes.set_errno(0)
        if hook["kind"] == "raw_tracepoint":
            fd = self._lib.bpf_attach_raw_tracepoint(program, target.encode())
        elif hook["kind"] == "tracepoint":
            provide_tracefs()
            fd = self._lib.bpf_attach_tracepoint(program, *(part.encode() for part in target.split(":")))
        else:
            fd = self._lib.bcc_iter_attach(program, None, 0)
        if fd < 0:
            raise Refused(os.strerror(-fd if fd < -1 else ctypes.get_errno()))
        return int(fd)

    def _said(self, doing: str, work: Any) -> Any:
        """The result of `work`. Refused: it failed; clang and the verifier say why on descriptor 2 alone."""
        with tempfile.TemporaryFile() as heard:
            before = os.dup(2)
            os.dup2(heard.fileno(), 2)
            try:
                return work()
            except Exception as error:  # noqa: BLE001 - bcc raises nothing else
                heard.seek(0)
                raise Refused(
                    f"{doing}: {reason(str(error), heard.read().decode(errors='replace'))}"
                ) from None
            finally:
                os.dup2(before, 2)
                os.close(before)

    def _give(self, kind: str, name: str, fd: int) -> None:
        self.names.append([kind, name])
        self.fds.append(fd)

    def close(self) -> None:
        """Close what attaches: a program without a hook does not run. bcc keeps the rest until we end."""
        for fd in self._own:
            os.close(fd)
        self._own.clear()


def reason(error: str, heard: str) -> str:
    """The line that tells why: clang's first error, else the verifier's last words, else the exception."""
    lines = [line.strip() for line in heard.splitlines() if line.strip()]
    wrong = [line for line in lines if "error:" in line]
    told = wrong[:1] or [line for line in lines if not line.startswith(("processed ", "HINT"))][-2:]
    return "; ".join([error, *told])[:LONGEST_REASON]


def provide_tracefs() -> None:
    """Mount tracefs if it is not, in a mount namespace of our own, which ends with this process."""
    if any(os.access(f"{place}/events/syscalls", os.X_OK) for place in TRACEFS):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    steps = (
        ("unshare(CLONE_NEWNS)", libc.unshare, (CLONE_NEWNS,)),
        ("making mounts private", libc.mount, (b"none", b"/", None, MS_REC | MS_PRIVATE, None)),
        ("mounting it", libc.mount, (b"tracefs", TRACEFS[0].encode(), b"tracefs", 0, None)),
    )
    for doing, function, arguments in steps:
        if function(*arguments) != 0:
            raise Refused(f"no tracefs at {TRACEFS[0]}, and {doing}: {os.strerror(ctypes.get_errno())}")


def make_stubs(place: Path) -> None:
    machine = platform.machine()
    (place / "arch" / ARCHITECTURES.get(machine, machine) / "include").mkdir(parents=True)
    for name, text in STUBS.items():
        path = place / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    os.environ["BCC_KERNEL_SOURCE"] = str(place)


def find_bcc() -> tuple[Any, str | None]:
    """(bcc, None), or (None, why not): "missing", "wrong" as PyPI's `bcc` about lattices is, or an error."""
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        return None, "missing"
    if not Path(found.origin).with_name("libbcc.py").exists():
        return None, "wrong"
    try:
        import bcc
    except (ImportError, OSError) as error:
        return None, str(error)
    return bcc, None


def declare(lib: Any) -> None:
    """The functions of libbcc that its Python does not declare: pointers would be cut to 32 bits."""
    lib.bpf_num_tables.restype, lib.bpf_num_tables.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    for function, result in ((lib.bpf_table_name, ctypes.c_char_p), (lib.bpf_table_fd_id, ctypes.c_int)):
        function.restype, function.argtypes = result, [ctypes.c_void_p, ctypes.c_size_t]
    lib.bcc_iter_attach.restype = ctypes.c_int
    lib.bcc_iter_attach.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]


def send(channel: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([json.dumps(message).encode()], rights)


def climb(bcc: Any, probe: dict[str, Any], channel: socket.socket) -> None:
    """Try the rungs of a probe until one serves, and tell."""
    refused = []
    for rung in probe["rungs"]:
        try:
            served = Rung(bcc, rung)
        except Refused as error:
            refused.append([rung["name"], str(error)])
            continue
        answer = {"probe": probe["name"], "rung": rung["name"], "refused": refused, "fds": served.names}
        send(channel, answer, served.fds)
        served.close()
        return
    send(channel, {"probe": probe["name"], "rung": None, "refused": refused, "fds": []})


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    work = Path(sys.argv[2])
    os.environ["TMPDIR"] = str(work)
    job = json.load(sys.stdin)
    signal.alarm(job["timeout_s"])
    make_stubs(work / "kernel")
    bcc, refused = find_bcc()
    send(channel, {"bcc": getattr(bcc, "__version__", None), "refused": refused})
    if bcc is None:
        return
    declare(bcc.lib)
    # Compiling takes 0.25 s a probe: shared among processes, each of which takes the next one's number.
    numbers, put = os.pipe()
    os.write(put, bytes(range(len(job["probes"]))))
    os.close(put)
    children = []
    for _ in range(min(job["workers"], len(job["probes"]))):
        pid = os.fork()
        if pid == 0:
            signal.alarm(job["timeout_s"])
            while number := os.read(numbers, 1):
                climb(bcc, job["probes"][number[0]], channel)
            os._exit(0)  # bcc's own handlers would disable what has been handed over
        children.append(pid)
    for pid in children:
        _, status = os.waitpid(pid, 0)
        if status:
            send(channel, {"ended": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    main()
