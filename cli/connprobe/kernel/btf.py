"""Where the running kernel keeps the fields of its structs, from its own type information (BTF).

bcc applies no CO-RE relocations, so programs are compiled with the offsets of this kernel. Read without
libbpf: the whole table is walked in 0.1 s, and nothing of it is kept but where each named struct begins.
"""

import hashlib
import struct
import sys
from array import array
from pathlib import Path
from typing import NamedTuple

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _TYPE_TAG, _ENUM64 = 8, 9, 10, 11, 12, 13, 18, 19
_WRAPPERS = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG}
_MAGIC = (0xEB9F).to_bytes(2, sys.byteorder)
_HEADER = struct.Struct("4x5I")  # struct btf_header: its length, then where types and strings are
# 32-bit words that follow the three of every type: once, and for each of its members
_ONCE = {_INT: 1, _ARRAY: 3, 14: 1, 17: 1}  # 14: variable, 17: declaration tag
_EACH = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, 15: 3, _ENUM64: 3}  # 15: data section


class Field(NamedTuple):
    """A field that a program reads: `path` may lead through embedded structs ("__sk_common.skc_num")."""

    struct: str
    path: str
    size: int | None  # in bytes, as the program reads it; None where it only takes the address

    @property
    def macro(self) -> str:
        """The name under which C finds its offset: SOCK_SKC_NUM."""
        return f"{self.struct}_{self.path.rsplit('.', 1)[-1]}".upper()

    def __str__(self) -> str:
        return f"struct {self.struct}: {self.path}"


class Missing(LookupError):
    """The kernel's BTF lacks what was asked for; the message names it."""


class Btf:
    """A BTF table, parsed from bytes. `Btf.of_kernel()` is that of the running kernel."""

    def __init__(self, data: bytes) -> None:
        """ValueError: this is no BTF that can be read."""
        if len(data) < _HEADER.size or data[:2] != _MAGIC:
            raise ValueError("no BTF: its magic number is missing")
        self.digest = hashlib.sha256(data).hexdigest()
        header, types, types_size, strings, strings_size = _HEADER.unpack_from(data)
        begin = header + types
        self._strings = data[header + strings : header + strings + strings_size]
        self._words = array("I", data[begin : begin + types_size])
        self._known: dict[tuple[int, str], int | None] = {}
        self._at = array("I", [0])  # of each type id, where it begins; 0 is void
        self._walk()

    @classmethod
    def of_kernel(cls) -> "Btf":
        """Missing: the kernel was built without CONFIG_DEBUG_INFO_BTF."""
        try:
            return cls(VMLINUX.read_bytes())
        except OSError as error:
            raise Missing(f"{VMLINUX}: {error.strerror}: the kernel has no type information") from None

    def offset(self, field: Field) -> int:
        """In bytes. Missing: no such struct or field, a bit field, or another size than the program reads."""
        at = self._find(_STRUCT, field.struct)
        if at is None:
            raise Missing(f"this kernel has no struct {field.struct}")
        total = 0
        for name in field.path.split("."):
            member = self._member(at, name)
            if member is None:
                raise Missing(f"this kernel has no field {field.path} in struct {field.struct}")
            bits, width, kind = member
            if width:
                raise Missing(f"{field} is a bit field in this kernel")
            total += bits // 8
            at = self._resolve(kind)
        if field.size is not None and (size := self._size(at)) != field.size:
            raise Missing(f"{field} has {size} bytes in this kernel, not {field.size}")
        return total

    def tracepoint(self, name: str) -> tuple[str, ...]:
        """The types of a tracepoint's arguments: struct names, "int" and the like. Missing: there is none."""
        at = self._find(_TYPEDEF, f"btf_trace_{name}")
        if at is None:
            raise Missing(f"this kernel has no tracepoint {name}")
        prototype = self._resolve(self._words[self._resolve(self._words[at + 2]) + 2])
        return self._parameters(prototype)[1:]  # the first is the data of the tracer

    def tracepoint_id(self, name: str) -> int:
        """The type id by which a typed program names a tracepoint. Missing: there is none."""
        at = self._find(_TYPEDEF, f"btf_trace_{name}")
        if at is None:
            raise Missing(f"this kernel has no tracepoint {name}")
        return self._at.index(at)

    def function(self, name: str) -> int:
        """The type id of a function. Missing: there is none."""
        at = self._find(_FUNC, name)
        if at is None:
            raise Missing(f"this kernel has no function {name}")
        return self._at.index(at)

    def arguments(self, function: str) -> tuple[str, ...]:
        """The types of a function's arguments, as those of a tracepoint. Missing: there is none."""
        return self._parameters(self._resolve(self._words[self._at[self.function(function)] + 2]))

    def enum(self, name: str) -> dict[int, str]:
        """The names of an enum's values. Missing: there is no such enum."""
        at = self._find(_ENUM, name)
        if at is None:
            raise Missing(f"this kernel has no enum {name}")
        count = self._words[at + 1] & 0xFFFF
        return {self._words[at + 4 + 2 * i]: self._name(self._words[at + 3 + 2 * i]) for i in range(count)}

    def _parameters(self, prototype: int) -> tuple[str, ...]:
        count, first = self._words[prototype + 1] & 0xFFFF, prototype + 3
        return tuple(self._type_name(self._words[first + 2 * i + 1]) for i in range(count))

    def _walk(self) -> None:
        once = [_ONCE.get(kind, 0) + 3 for kind in range(32)]
        each = [_EACH.get(kind, 0) for kind in range(32)]
        words, end, add, at = self._words, len(self._words), self._at.append, 0
        while at < end:
            add(at)
            info = words[at + 1]
            kind = info >> 24 & 31
            at += once[kind] + each[kind] * (info & 0xFFFF)

    def _find(self, kind: int, name: str) -> int | None:
        """Where the type of this name begins, searched for once: it takes milliseconds."""
        if (kind, name) not in self._known:
            self._known[kind, name] = self._search(kind, name)
        return self._known[kind, name]

    def _search(self, kind: int, name: str) -> int | None:
        """Each name stands in the strings once: they are deduplicated."""
        found = self._strings.find(b"\0" + name.encode() + b"\0")
        if found < 0:
            return None
        words, name_offset = self._words, found + 1
        for at in self._at[1:]:
            if words[at] == name_offset and words[at + 1] >> 24 & 31 == kind:
                return at
        return None

    def _member(self, at: int, name: str) -> tuple[int, int, int] | None:
        """(offset in bits, width if a bit field, type id) of a member, looked for in unnamed members too."""
        words = self._words
        if words[at + 1] >> 24 & 31 not in (_STRUCT, _UNION):
            return None
        packed = words[at + 1] >> 31  # then the upper 8 bits are the width of a bit field
        for i in range(words[at + 1] & 0xFFFF):
            member_name, kind, bits = words[at + 3 + 3 * i : at + 6 + 3 * i]
            width, bits = (bits >> 24, bits & 0xFFFFFF) if packed else (0, bits)
            if member_name == 0:
                inner = self._member(self._resolve(kind), name)
                if inner is not None:
                    return bits + inner[0], inner[1], inner[2]
            elif self._name(member_name) == name:
                return bits, width, kind
        return None

    def _resolve(self, kind: int) -> int:
        """Where the type begins that typedefs and qualifiers stand for."""
        at = self._at[kind]
        while kind and self._words[at + 1] >> 24 & 31 in _WRAPPERS:
            kind = self._words[at + 2]
            at = self._at[kind]
        return at

    def _size(self, at: int) -> int:
        kind = self._words[at + 1] >> 24 & 31
        if kind == _PTR:
            return 8
        if kind == _ARRAY:
            return self._size(self._resolve(self._words[at + 3])) * self._words[at + 5]
        return self._words[at + 2]

    def _type_name(self, kind: int) -> str:
        at = self._resolve(kind)
        if self._words[at + 1] >> 24 & 31 == _PTR:
            if self._words[at + 2] == 0:
                return "void"
            at = self._resolve(self._words[at + 2])
        return self._name(self._words[at])

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()
