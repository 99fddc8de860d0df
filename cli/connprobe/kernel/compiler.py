"""Compiles the probes and ends: bytecode, and the maps that it needs.

A script of its own, because bcc belongs to the distribution's Python and not to ours, and because its LLVM
takes 130 MB that may not stay in the process that samples. It needs the standard library and bcc alone:

    python3 -I compiler.py SOCKET WORK_DIRECTORY < job.json

SOCKET is the number of an inherited SOCK_SEQPACKET socket. Each message is a JSON object; what was compiled
is in a file of WORK_DIRECTORY, as it may be larger than a message.
"""

import ctypes
import importlib.util
import json
import os
import platform
import re
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

LONGEST_REASON = 2000
LOAD_ADDRESS, OF_MAP = 0x18, 1  # the instruction that takes a map; its source register then

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
# What a text declares at the beginning of a line: structs, enums, types, functions, programs and maps.
DECLARED = re.compile(
    r"""^(?: struct\ (\w+)\ \{
          | enum\ \{([^}]*)\}
          | typedef\ \w+\ (\w+);
          | (?:static\ (?:inline\ )?)?(?:struct\ )?\w+[ ]\**\(?\**(\w+)\)?\(
          | (?:RAW_TRACEPOINT|SYSCALL_EXIT)\((\w+)\)
          | BPF_\w+\((?:"\w+",\ (?:struct\ )?\w+,\ (?:struct\ )?\w+,\ )?(\w+)
        )""",
    re.MULTILINE | re.VERBOSE,
)
ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "riscv64": "riscv",
    "ppc64le": "powerpc",
    "s390x": "s390",
}


class Refused(Exception):
    """A text that does not compile, with the reason as the compiler gave it."""


def compiled(bcc: Any, text: str, wanted: list[str]) -> dict[str, Any]:
    """The parts of Programs. Refused.

    bcc makes the maps itself, and puts their descriptors into the code: taken out again here.
    """
    with tempfile.TemporaryFile() as heard:  # clang says why on descriptor 2 alone
        before = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            module = bcc.BPF(text=text, cflags=["-g0"]).module  # debug information is an eighth of the time
        except Exception as error:  # noqa: BLE001 - bcc raises nothing else
            heard.seek(0)
            raise Refused(f"compiling: {reason(str(error), heard.read().decode(errors='replace'))}") from None
        finally:
            os.dup2(before, 2)
            os.close(before)
    lib = bcc.lib
    tables = range(lib.bpf_num_tables(module))
    indices = {lib.bpf_table_fd_id(module, i): i for i in tables}
    maps = [
        [
            lib.bpf_table_name(module, i).decode(),
            lib.bpf_table_type_id(module, i),
            lib.bpf_table_key_size_id(module, i),
            lib.bpf_table_leaf_size_id(module, i),
            lib.bpf_table_max_entries_id(module, i),
            lib.bpf_table_flags_id(module, i),
        ]
        for i in tables
    ]
    code = {}
    for name in wanted:
        start = lib.bpf_function_start(module, name.encode())
        if not start:
            raise Refused(f"compiling: there is no function {name}")
        size = lib.bpf_function_size(module, name.encode())
        code[name] = unlinked(ctypes.string_at(start, size), indices).hex()
    return {
        "maps": maps,
        "code": code,
        "license": lib.bpf_module_license(module).decode(),
        "compiler": version(bcc),
    }


def compiled_together(bcc: Any, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same of each text, for the price of reading bcc's headers once: two thirds of the time. Refused."""
    prefixes = [f"p{i}_" for i in range(len(jobs))]
    text = "".join(apart(job["text"], prefix) for job, prefix in zip(jobs, prefixes, strict=True))
    wanted = [prefix + name for job, prefix in zip(jobs, prefixes, strict=True) for name in job["programs"]]
    whole = compiled(bcc, text, wanted)
    answers = []
    for job, prefix in zip(jobs, prefixes, strict=True):
        numbers = [i for i, (name, *_) in enumerate(whole["maps"]) if name.startswith(prefix)]
        indices = {number: index for index, number in enumerate(numbers)}
        maps = [[name.removeprefix(prefix), *rest] for name, *rest in map(whole["maps"].__getitem__, numbers)]
        code = {
            name: unlinked(bytes.fromhex(whole["code"][prefix + name]), indices).hex()
            for name in job["programs"]
        }
        answers.append({**whole, "maps": maps, "code": code})
    return answers


def apart(text: str, prefix: str) -> str:
    """A text that leaves nothing behind for the next: no name but with this prefix, and no macro."""
    names = set()
    for found in DECLARED.finditer(text):
        for declared in filter(None, found.groups()):
            names |= {one.split("=")[0].strip() for one in re.sub(r"/\*.*?\*/", "", declared).split(",")}
    renamed = re.sub(rf"\b(?:{'|'.join(sorted(names - {''}))})\b", lambda name: prefix + name[0], text)
    macros = dict.fromkeys(re.findall(r"^#define (\w+)", text, re.MULTILINE))
    macros.pop("BPF_LICENSE", None)  # bcc looks for it at the end, and it is the same in all
    return f"{renamed}\n" + "".join(f"#undef {name}\n" for name in macros)


def unlinked(code: bytes, indices: dict[int, int]) -> bytes:
    """With the maps' indices in place of their descriptors, or of other indices."""
    plain = bytearray(code)
    at = 0
    while at < len(plain):
        wide = plain[at] == LOAD_ADDRESS
        if wide and plain[at + 1] >> 4 == OF_MAP:
            fd = int.from_bytes(plain[at + 4 : at + 8], sys.byteorder)
            plain[at + 4 : at + 8] = indices[fd].to_bytes(4, sys.byteorder)
        at += 16 if wide else 8
    return bytes(plain)


def reason(error: str, heard: str) -> str:
    """The line that tells why: clang's first error, else its last words, with the exception."""
    lines = [line.strip() for line in heard.splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line][:1] or lines[-2:]
    return "; ".join([error, *told])[:LONGEST_REASON]


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


def version(bcc: Any) -> str:
    return f"bcc {bcc.__version__} ({sys.executable})"


def declare(lib: Any) -> None:
    """The functions of libbcc that its Python does not declare: pointers would be cut to 32 bits."""
    lib.bpf_num_tables.restype, lib.bpf_num_tables.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    of_table = {"name": ctypes.c_char_p, "max_entries_id": ctypes.c_size_t}
    of_table |= dict.fromkeys(("fd_id", "type_id", "flags_id"), ctypes.c_int)
    of_table |= dict.fromkeys(("key_size_id", "leaf_size_id"), ctypes.c_size_t)
    for name, result in of_table.items():
        function = getattr(lib, f"bpf_table_{name}")
        function.restype, function.argtypes = result, [ctypes.c_void_p, ctypes.c_size_t]


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.send(json.dumps(message).encode())


def work_on(bcc: Any, jobs: list[dict[str, Any]], place: Path, channel: socket.socket) -> None:
    """Compile these texts and tell."""
    try:
        answers = compiled_together(bcc, jobs) if len(jobs) > 1 else []
    except Refused as error:
        send(channel, {"apart": str(error)})
        answers = []
    for i, job in enumerate(jobs):
        try:
            parts = answers[i] if answers else compiled(bcc, job["text"], job["programs"])
        except Refused as error:
            send(channel, {"name": job["name"], "refused": str(error)})
            continue
        file = place.with_name(f"{place.name}-{i}.json")
        file.write_text(json.dumps(parts))
        send(channel, {"name": job["name"], "file": file.name})


def shares(texts: list[dict[str, Any]], workers: int) -> list[list[dict[str, Any]]]:
    """For each worker some, of about the same length in all; texts are the longest first."""
    parts: list[list[dict[str, Any]]] = [[] for _ in range(min(workers, len(texts)))]
    for text in texts:
        min(parts, key=lambda part: sum(len(each["text"]) for each in part)).append(text)
    return parts


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    work = Path(sys.argv[2])
    os.environ["TMPDIR"] = str(work)
    job = json.load(sys.stdin)
    signal.alarm(job["timeout_s"])
    make_stubs(work / "kernel")
    bcc, refused = find_bcc()
    send(channel, {"bcc": bcc and version(bcc), "refused": refused})
    if bcc is None:
        return
    declare(bcc.lib)
    crashed = run(bcc, shares(job["texts"], job["workers"]), work, channel)
    for text in [text for share, _ in crashed for text in share]:  # which of them was it?
        for _, status in run(bcc, [[text]], work, channel):
            why = f"the compiler ended without an answer (exit status {status})"
            send(channel, {"name": text["name"], "refused": f"compiling: {why}"})


def run(bcc: Any, parts: list[Any], work: Path, channel: socket.socket) -> list[tuple[Any, int]]:
    """Work on all at once, each in a process of its own. Those that ended badly, with their exit status."""
    children = []
    left_s = int(signal.getitimer(signal.ITIMER_REAL)[0]) + 1  # which a child has no more
    for part in parts:
        pid = os.fork()
        if pid == 0:
            signal.alarm(left_s)
            work_on(bcc, part, work / part[0]["name"], channel)
            os._exit(0)
        children.append((pid, part))
    ended = [(part, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for pid, part in children]
    return [(part, status) for part, status in ended if status]


if __name__ == "__main__":
    main()
