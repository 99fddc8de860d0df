"""What this host allows, and what is changed on it."""

from connprobe.model.base import Record
from connprobe.model.request import Family


class InterfaceAddress(Record, frozen=True):
    """One address of this host."""

    interface: str
    address: str
    prefix: int
    family: Family


class HostFacts(Record, frozen=True):
    """What this host allows, each read from the file or call that its name says. None: not there."""

    kernel: str
    cpus: int
    uid: int
    capabilities: tuple[str, ...]  # effective, e.g. CAP_NET_ADMIN
    memory_total_bytes: int
    memory_available_bytes: int
    cgroup_memory_max_bytes: int | None
    cgroup_memory_current_bytes: int | None
    nofile_soft: int
    nofile_hard: int
    nr_open: int
    file_max: int
    files_in_use: int
    port_low: int
    port_high: int
    reserved_ports: int  # how many of ip_local_reserved_ports lie inside the range
    epoll_watches: int | None
    conntrack_max: int | None  # None: no connection tracking
    conntrack_count: int | None
    somaxconn: int
    process_limit: int | None  # RLIMIT_NPROC of this user, None: unlimited (or root)
    processes_in_use: int  # threads of all users: each takes a pid
    user_processes_in_use: int  # threads of this user: what RLIMIT_NPROC counts
    pid_max: int
    cgroup_pids_max: int | None
    cgroup_pids_current: int | None
    addresses: tuple[InterfaceAddress, ...]
    may_unshare: bool = True  # whether a thread may have descriptors of its own (seccomp commonly forbids it)


class HostRecord(Record, frozen=True):
    kernel: str
    cpus: int
    memory_total_bytes: int
    nofile: int
    python: str


class Obstacle(Record, frozen=True):
    """Why a run is refused before anything was touched."""

    what: str
    have: str
    need: str
    fix: str


class Capacity(Record, frozen=True):
    """How many connections one resource of this host allows, and what lifts it."""

    resource: str
    source: str  # the file or call the figure comes from
    capacity: int
    used: int
    per_connection: float
    connections: int
    fix: str


class SysctlChange(Record, frozen=True):
    """One sysctl, by its path below /proc/sys, from one value to another."""

    key: str
    before: str
    after: str
    optional: bool = False  # "-" in the profile: a refusal by the kernel is no failure


class KeyCheck(Record, frozen=True):
    """One key of `sysctl check --json`. now None: missing on this kernel, or not readable."""

    key: str
    now: str | None
    wanted: str
    effect: str  # raises, lowers, raises and lowers, same, differs, missing, not readable
    ok: bool
    meaning: str | None


class CheckResult(Record, frozen=True):
    """What `sysctl check --json` prints."""

    profile: str
    source: str
    exact: bool
    ok: bool
    keys: tuple[KeyCheck, ...]
