"""A suite of `connprobe compare`: which servers do which work, at which sizes (docs/compare.md)."""

from typing import Annotated

from msgspec import Meta, field

from connprobe.model.base import Record
from connprobe.model.request import Protocol

# "$" alone also matches before a last newline. Where it does not, as in a JSON schema, the rest says nothing.
_END = r"$(?!\n)"
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 +._-]{0,39}" + _END)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}" + _END)]
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*" + _END)]
Size = Annotated[int, Meta(ge=1, le=10_000_000)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]


class Workload(Record, frozen=True, forbid_unknown_fields=True):
    """What each of so many connections does. It is for the contestants of the same protocol and TLS."""

    name: Name
    protocol: Protocol = "ws"
    tls: bool = False
    path: Annotated[str, Meta(pattern=r"^/[!-~]*" + _END)] = "/"
    messages: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    message: str | None = None  # a text, or a size such as 1kB; None: 32B, or with HTTP the request
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    timeout_s: Seconds = 30.0  # for each handshake, each answer and each close
    longest_s: Seconds = 600.0  # of one run: what has not begun by then does not begin


class Program(Record, frozen=True, forbid_unknown_fields=True):
    """How a server is started; it stays in the foreground. ${...} is filled in: see `plan.template`."""

    name: Name
    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    environment: dict[Variable, str] = field(default_factory=dict)
    # In ${directory}, by name: a template; in a suite file, its path.
    files: dict[FileName, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()  # further files that have to be there
    install: str | None = None  # the command that brings all of this
    version: tuple[str, ...] = ()  # the command that prints it
    port: Port | None = None  # to be tried first; None: any free one
    startup_s: Seconds = 30.0  # the longest wait until it listens


class Backend(Program, frozen=True, forbid_unknown_fields=True):
    """What stands behind a contestant. counted: its memory and CPU are the contestant's."""

    counted: bool = False


class Contestant(Program, frozen=True, forbid_unknown_fields=True):
    """backends: by name, in the order they are started; each is told the port of the one before."""

    protocol: Protocol = "ws"
    tls: bool = False
    control: bool = False  # what the others of its workload are measured by
    backends: tuple[str, ...] = ()


class Suite(
    Record,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"workloads": "workload", "backend_programs": "backend", "contestants": "contestant"},
):
    title: str = "comparison"
    sizes: Annotated[tuple[Size, ...], Meta(min_length=1)]
    repeats: Annotated[int, Meta(ge=1, le=1000)] = 3
    workloads: Annotated[tuple[Workload, ...], Meta(min_length=1)]
    backend_programs: tuple[Backend, ...] = ()
    contestants: Annotated[tuple[Contestant, ...], Meta(min_length=1)]

    def backends_of(self, contestant: Contestant) -> tuple[Backend, ...]:
        """In the order they are started."""
        by_name = {each.name: each for each in self.backend_programs}
        return tuple(by_name[name] for name in contestant.backends)


def serves(contestant: Contestant, workload: Workload) -> bool:
    """Whether a contestant takes part in a workload."""
    return (contestant.protocol, contestant.tls) == (workload.protocol, workload.tls)
