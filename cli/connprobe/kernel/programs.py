"""What a rung is once it is compiled: bytecode and the maps it uses, as bytes that can be kept.

Kept programs spare a later run the compiler: LLVM takes seconds of CPU, and bcc has to be installed. What
is kept came from our own sources; the kernel's verifier looks at it again each time.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from connprobe.kernel.probe import Hook

INSTRUCTION = 8  # bytes
_FORMAT = 1  # of what is kept, and of what its key is made from
_COMPILER = Path(__file__).with_name("compiler.py")


class MapPlan(NamedTuple):
    """A map to be created. kind: enum bpf_map_type."""

    name: str
    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class Programs(NamedTuple):
    """One rung's. In the bytecode, a load of a map's address has the map's index in `maps` for a descriptor.

    compiler: what made it, as "bcc 0.26.0 (/usr/bin/python3)".
    """

    maps: tuple[MapPlan, ...]
    code: Mapping[str, bytes]
    license: str
    compiler: str


class Keep(Protocol):
    """Where compiled programs outlast the run."""

    def get(self, key: str) -> bytes | None:
        """None: there are none. OSError or ValueError: they cannot be used, and the message says why."""

    def put(self, key: str, data: bytes) -> None:
        """OSError: they could not be kept."""


def key_of(btf_digest: str, text: str, hooks: Sequence[Hook]) -> str:
    """Of what a rung's programs depend on: the kernel, its types, our sources with their offsets.

    Not the version of bcc, which only running it tells, and that is to be spared: `Programs.compiler` has it.
    """
    kernel = platform.uname()
    parts = [
        _FORMAT,
        [kernel.release, kernel.version, kernel.machine],
        btf_digest,
        text,
        hooks,
        _COMPILER.read_text(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def encode(programs: Programs, key: str) -> bytes:
    """With the key, so that a file under another's name is not taken, and a digest, which shows damage."""
    code = {name: each.hex() for name, each in programs.code.items()}
    body = json.dumps({"key": key, **programs._asdict(), "code": code}, sort_keys=True).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(data: bytes, key: str) -> Programs:
    """ValueError: these are not the bytes that `encode` gave for this key."""
    digest, _, body = data.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        raise ValueError("it is damaged: its digest differs")
    found = json.loads(body)
    if found.pop("key", None) != key:
        raise ValueError("it holds other programs than its name says")
    return from_parts(found)


def from_parts(parts: Mapping[str, Any]) -> Programs:
    """From the compiler's answer: {maps, code: {name: hex}, license, compiler}. ValueError."""
    try:
        maps = tuple(MapPlan(*each) for each in parts["maps"])
        code = {name: bytes.fromhex(each) for name, each in parts["code"].items()}
        programs = Programs(maps, code, parts["license"], parts["compiler"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"these are no compiled programs: {error}") from None
    if any(len(each) % INSTRUCTION or not each for each in code.values()):
        raise ValueError("these are no compiled programs: half an instruction")
    return programs
