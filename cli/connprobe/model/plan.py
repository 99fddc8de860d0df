"""How a request is carried out."""

from connprobe.model.base import Record
from connprobe.model.host import SysctlChange
from connprobe.model.request import Target


class SourceShare(Record, frozen=True):
    """`count` connections from one source address. address "": the kernel chooses.

    first_port: where to begin among `ports` (first, last, step), which are bound one by one; 0: the
    kernel chooses each.
    """

    address: str
    count: int
    first_port: int = 0
    ports: tuple[int, int, int] | None = None


class Shard(Record, frozen=True):
    """What one worker opens."""

    index: int
    count: int
    sources: tuple[SourceShare, ...]


class HoldPlan(Record, frozen=True):
    """How a request is carried out: what `--dry-run` prints."""

    target: Target | None  # None: the embedded server, whose port is not known yet
    count: int
    nofile: int  # per worker and process, after the soft limit was raised
    workers: int
    server_processes: int  # of the embedded server; 0: a target was named
    source_addresses: int
    ports_per_source: int
    source_ports: tuple[int, int] | None  # bound one by one; None: the kernel chooses from its range
    memory_bytes: int  # expected: kernel and user space of both ends, as far as they are on this host
    alias_interface: str | None
    alias_addresses: tuple[str, ...]  # those that have to be added
    shards: tuple[Shard, ...]
    notes: tuple[str, ...] = ()
    sysctls: tuple[SysctlChange, ...] = ()  # written for the run, and put back at its end
    # Fewer than workers: these are threads with descriptors of their own. None: of an older connprobe.
    worker_processes: int | None = None
