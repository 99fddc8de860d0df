"""A probe that runs in the kernel: its maps, its programs, and whether it is still attached."""

import os
import sys
from collections.abc import Mapping, Sequence

from connprobe.kernel import bpf
from connprobe.kernel.probe import Refusal


class Live:
    """Owns the descriptors that keep a probe in the kernel. A context manager: leaving it detaches all.

    rung: the one that serves; refused: those before it, and why they do not. programs: where they come from.
    """

    def __init__(
        self,
        name: str,
        rung: str,
        refused: tuple[Refusal, ...],
        fds: Mapping[tuple[str, str], int],
        programs: str,
    ) -> None:
        self.name, self.rung, self.refused, self.programs = name, rung, refused, programs
        self.maps: dict[str, bpf.Map] = {}
        self.hooks: dict[str, int] = {}  # the descriptor of the link or perf event, by "kind target"
        self._programs: dict[str, int] = {}
        for (kind, label), fd in fds.items():
            if kind == "map":
                self.maps[label] = bpf.Map(fd)
            elif kind == "program":
                self._programs[label] = fd
            else:
                self.hooks[label] = fd
        self.program_ids = {bpf.program_id(fd) for fd in self._programs.values()}

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closing twice is no error. A hook that was torn away is left: its number may be another file's."""
        torn = self.detached()
        for label, fd in self.hooks.items():
            if label not in torn:
                os.close(fd)
        for fd in [*self._programs.values(), *(one.fd for one in self.maps.values())]:
            os.close(fd)
        self.hooks, self._programs, self.maps = {}, {}, {}

    def run_iterator(self, target: str, *, whole: bool = False) -> bytes:
        """Run the iterator over `target` ("tcp") and give what it wrote; OSError where that fails.

        whole: beyond a million objects too; for programs that never end the walk by returning 1.
        """
        return bpf.run_iterator(self.hooks[f"iter {target}"], whole=whole)

    def call(self, program: str, *arguments: int) -> None:
        """Run a program of the kind "call"; OSError where that fails."""
        bpf.run_program(self._programs[program], *arguments)

    def lost(self, causes: Sequence[str]) -> dict[str, int]:
        """What makes the counts incomplete, without zeros. `causes`: the C file's enum, in its order.

        With it come programs that the kernel skipped, as they were running already, and hooks that are gone.
        """
        sums = [
            sum(int.from_bytes(value, sys.byteorder) for value in values)
            for _, values in self.maps["lost"].items()
        ]
        counts = dict(zip(causes, sums, strict=False))
        counts |= {f"skipped {one.name}": one.missed for one in self.statistics()}
        counts |= {f"detached {label}": 1 for label in self.detached()}
        return {cause: count for cause, count in counts.items() if count}

    def detached(self) -> tuple[str, ...]:
        """Hooks ("kind target") that lead to no program of this probe any more: their counts stand still."""
        return tuple(label for label, fd in self.hooks.items() if not self._attached(label, fd))

    def _attached(self, label: str, fd: int) -> bool:
        try:
            if label.startswith("tracepoint "):
                return not self.program_ids.isdisjoint(bpf.perf_event_programs(fd))
            return bpf.link_program(fd) in self.program_ids
        except OSError:
            return False

    def statistics(self) -> tuple[bpf.ProgramStatistics, ...]:
        """One for each program; run time and count move only while `bpf.enable_statistics` is held open."""
        return tuple(bpf.program_statistics(fd) for fd in self._programs.values())

    def programs_by_id(self) -> dict[int, bpf.ProgramStatistics]:
        """The same by the kernel's number of the program, which another probe may share."""
        return {bpf.program_id(fd): bpf.program_statistics(fd) for fd in self._programs.values()}

    @property
    def memory_bytes(self) -> int:
        """Kernel memory of maps and programs, shared ones too (source: memlock in fdinfo)."""
        programs = sum(one.memory_bytes for one in self.statistics())
        return programs + sum(one.memory_bytes for one in self.maps.values())
