"""bpf(2) as the process that reads the probes needs it: maps, iterators, links and program statistics.

Through ctypes, because bcc costs 130 MB of memory that would be part of what is measured.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import re
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_RUN, _MAP_LOOKUP_BATCH = 1, 2, 3, 10, 24
_PROG_BY_ID, _OBJ_GET_INFO, _ENABLE_STATS, _ITER_CREATE = 13, 15, 32, 33
_PER_CPU = {5, 6, 10}  # enum bpf_map_type: percpu hash, percpu array, lru percpu hash
_ARRAYS = {2, 6}  # array, percpu array
_PERF_EVENT_IOC_QUERY_BPF = 0xC008240A
_ATTRIBUTES_SIZE = 128  # the kernel takes a longer union bpf_attr than it knows, if the rest is 0
_BATCH_BYTES = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class ProgramStatistics(NamedTuple):
    """Source: BPF_OBJ_GET_INFO_BY_FD. Runs and time stand still unless `enable_statistics` is held open."""

    name: str
    run_count: int
    run_time_ns: int
    missed: int  # times it was not run, as it (or another) was running on that CPU already
    memory_bytes: int


@cache
def possible_cpus() -> int:
    """How many values a per-CPU map holds for a key."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return max(int(part.split("-")[-1]) for part in ranges) + 1


class Map:
    """A map by its descriptor, which it owns. Keys and values are bytes; every method may raise OSError."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._kind, _, self.key_size, self.value_size, self.max_entries = _info(fd, "5I")
        self.per_cpu = self._kind in _PER_CPU
        self._stride = -(-self.value_size // 8) * 8 if self.per_cpu else self.value_size
        self._room = self._stride * (possible_cpus() if self.per_cpu else 1)

    def get(self, key: bytes) -> list[bytes] | None:
        """The values of a key, one for each possible CPU or just one; None without that key."""
        value = ctypes.create_string_buffer(self._room)
        try:
            self._element(_MAP_LOOKUP, key, value)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return self._split(value.raw)

    def set(self, key: bytes, value: bytes) -> None:
        """Give a key its value, on every possible CPU where the map is per CPU."""
        if len(value) != self.value_size:
            raise ValueError(f"a value of {len(value)} bytes for a map of {self.value_size}")
        count = self._room // self._stride
        self._element(_MAP_UPDATE, key, ctypes.create_string_buffer(value.ljust(self._stride, b"\0") * count))

    def mapped(self) -> mmap.mmap:
        """The values of an array that is BPF_F_MMAPABLE, as they change; its owner closes it."""
        return mmap.mmap(self.fd, self.max_entries * self._stride, mmap.MAP_SHARED, mmap.PROT_READ)

    def delete(self, key: bytes) -> None:
        """Deleting a key that is not there is no error."""
        try:
            self._element(_MAP_DELETE, key, None)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def items(self) -> list[tuple[bytes, list[bytes]]]:
        """All entries. Those put in or removed meanwhile may be missing, or once removed still there."""
        if self._kind in _ARRAYS:
            keys = [index.to_bytes(4, "little") for index in range(self.max_entries)]
            return [(key, values) for key in keys if (values := self.get(key)) is not None]
        return list(self._batches())

    def _batches(self) -> Iterator[tuple[bytes, list[bytes]]]:
        count = max(1, min(_BATCH_BYTES // (self.key_size + self._room), self.max_entries))
        position = ctypes.create_string_buffer(max(self.key_size, 8))
        first = True
        done = False
        while not done:
            keys = ctypes.create_string_buffer(count * self.key_size)
            values = ctypes.create_string_buffer(count * self._room)
            asked = attributes(
                "4Q2I2Q",
                0 if first else ctypes.addressof(position),
                ctypes.addressof(position),
                ctypes.addressof(keys),
                ctypes.addressof(values),
                count,
                self.fd,
                0,
                0,
            )
            try:
                call(_MAP_LOOKUP_BATCH, asked)
            except OSError as error:
                if error.errno == errno.ENOSPC:  # one bucket of the hash holds more than fits
                    count *= 2
                    continue
                if error.errno != errno.ENOENT:  # which says that this was the last batch
                    raise
                done = True
            first = False
            (found,) = struct.unpack_from("I", asked, 32)
            key_bytes, value_bytes = keys.raw, values.raw
            for i in range(found):
                key = key_bytes[i * self.key_size : (i + 1) * self.key_size]
                yield key, self._split(value_bytes[i * self._room : (i + 1) * self._room])

    def _element(self, command: int, key: bytes, value: ctypes.Array[ctypes.c_char] | None) -> None:
        if len(key) != self.key_size:
            raise ValueError(f"a key of {len(key)} bytes for a map of {self.key_size}")
        buffer = ctypes.create_string_buffer(key, len(key))
        address = 0 if value is None else ctypes.addressof(value)
        call(command, attributes("I4x3Q", self.fd, ctypes.addressof(buffer), address, 0))

    def _split(self, values: bytes) -> list[bytes]:
        return [values[at : at + self.value_size] for at in range(0, len(values), self._stride)]

    @property
    def memory_bytes(self) -> int:
        return _memlock(self.fd)


def run_iterator(link: int, *, whole: bool = False) -> bytes:
    """Run the iterator of a link to its end and give what it wrote.

    A program that returns 1 ends the walk early: the kernel then says EAGAIN (bpf_iter_run_prog). It says so
    too after a million objects without output (MAX_ITER_OBJECTS) and goes on when asked again: `whole`, for
    programs that never return 1.
    """
    fd = call(_ITER_CREATE, attributes("2I", link, 0))
    written = []
    try:
        while True:
            try:
                data = os.read(fd, 1 << 16)
            except BlockingIOError:
                if whole:
                    continue
                break
            if not data:
                break
            written.append(data)
    finally:
        os.close(fd)
    return b"".join(written)


def run_program(program: int, *arguments: int) -> None:
    """Run a raw tracepoint's program here and now, with `arguments` as its ctx->args (since Linux 5.10)."""
    context = ctypes.create_string_buffer(struct.pack("12Q", *arguments, *[0] * (12 - len(arguments))))
    call(_PROG_RUN, attributes("4I2Q4I2Q", program, 0, 0, 0, 0, 0, 0, 0, 96, 0, ctypes.addressof(context), 0))


def program_id(fd: int) -> int:
    return int(_info(fd, "2I")[1])


def program_by_id(number: int) -> int:
    """A descriptor of a program that is in the kernel; FileNotFoundError: there is none of that id."""
    return call(_PROG_BY_ID, attributes("3I", number, 0, 0))


def program_statistics(fd: int) -> ProgramStatistics:
    fields = _info(fd, "64x16s112x3Q")
    name = fields[0].rstrip(b"\0").decode()
    return ProgramStatistics(name, fields[2], fields[1], fields[3], _memlock(fd))


def link_program(fd: int) -> int:
    """The id of the program that a link runs. OSError: there is no such link any more."""
    return int(_info(fd, "3I")[2])


def perf_event_programs(fd: int) -> list[int]:
    """The ids of all programs at the tracepoint of a perf event. OSError: it is no such event any more."""
    room = 64
    buffer = bytearray(struct.pack("2I", room, 0) + bytes(4 * room))
    fcntl.ioctl(fd, _PERF_EVENT_IOC_QUERY_BPF, buffer)
    (count,) = struct.unpack_from("I", buffer, 4)
    return list(struct.unpack_from(f"{count}I", buffer, 8))


def enable_statistics() -> int:
    """A descriptor that makes the kernel measure run time of all BPF programs while it is open. OSError."""
    return call(_ENABLE_STATS, attributes("I", 0))


def _info(fd: int, layout: str) -> tuple[Any, ...]:
    """The first fields of bpf_prog_info, bpf_map_info or bpf_link_info, as the descriptor is of one of them.

    An older kernel knows less of them: the rest stays 0.
    """
    size = struct.calcsize(layout)
    buffer = ctypes.create_string_buffer(size)
    call(_OBJ_GET_INFO, attributes("2IQ", fd, size, ctypes.addressof(buffer)))
    return struct.unpack(layout, buffer)


def _memlock(fd: int) -> int:
    found = re.search(r"^memlock:\s*(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def attributes(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    """A union bpf_attr that begins with these."""
    buffer = ctypes.create_string_buffer(_ATTRIBUTES_SIZE)
    struct.pack_into(layout, buffer, 0, *values)
    return buffer


def call(command: int, asked: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2). OSError."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {platform.machine()} is not known here")
    return system_call(number, command, asked, _ATTRIBUTES_SIZE)


def system_call(number: int, *arguments: Any) -> int:
    """By its number, with integers and addresses. OSError."""
    result = int(
        _libc.syscall(
            ctypes.c_long(number), *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
        )
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
