"""What connprobe knows about single sysctl keys: what each means, and in which direction it gives more."""

import re
from typing import Literal, NamedTuple

NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)")  # the kernel would read 010 as octal

# Which number gives more. A tuple lists the values of a choice, the least first.
More = Literal["larger", "smaller", "wider"] | tuple[str, ...]
Namespace = Literal["net", "ipc", "uts", "pid", "user"]


class Key(NamedTuple):
    """One key. `unit` is that of its numbers, `numbers` how many there are."""

    meaning: str
    more: More = "larger"
    numbers: int = 1
    unit: Literal["", "bytes", "pages"] = ""


_SWITCH = ("0", "1")

KEYS: dict[str, Key] = {
    "fs/epoll/max_user_watches": Key("descriptors that one user may have in epoll sets"),
    "fs/file-max": Key("open files of the whole system; beyond it only root may open more"),
    "fs/nr_open": Key("the highest RLIMIT_NOFILE that one process may be given"),
    "kernel/pid_max": Key("process ids: threads and processes at once"),
    "kernel/threads-max": Key("threads of the whole system"),
    "net/core/netdev_budget": Key("packets that one round of the receive softirq may take"),
    "net/core/netdev_budget_usecs": Key("microseconds that one round of the receive softirq may take"),
    "net/core/netdev_max_backlog": Key("packets that wait for one CPU (loopback, RPS); more are dropped"),
    "net/core/optmem_max": Key("ancillary buffer of one socket", unit="bytes"),
    "net/core/rmem_default": Key("receive buffer of a new socket, not TCP", unit="bytes"),
    "net/core/rmem_max": Key("the largest SO_RCVBUF that a program may set", unit="bytes"),
    "net/core/somaxconn": Key("the longest accept queue: caps the backlog of listen(2)"),
    "net/core/wmem_default": Key("send buffer of a new socket, not TCP", unit="bytes"),
    "net/core/wmem_max": Key("the largest SO_SNDBUF that a program may set", unit="bytes"),
    "net/ipv4/ip_local_port_range": Key(
        "source ports that connect(2) chooses from: first and last", "wider", 2
    ),
    "net/ipv4/tcp_fin_timeout": Key("seconds that an orphan stays in FIN_WAIT2", "smaller"),
    "net/ipv4/tcp_max_orphans": Key("closed sockets that still have to deliver; more are reset"),
    "net/ipv4/tcp_max_syn_backlog": Key("half-open connections of a listener, where SYN cookies are off"),
    "net/ipv4/tcp_max_tw_buckets": Key("sockets in TIME_WAIT; more are ended at once"),
    "net/ipv4/tcp_mem": Key("memory of all TCP sockets: low, pressure, most", numbers=3, unit="pages"),
    "net/ipv4/tcp_moderate_rcvbuf": Key("whether receive buffers grow by themselves", _SWITCH),
    "net/ipv4/tcp_notsent_lowat": Key("unsent bytes up to which a socket is writable", unit="bytes"),
    "net/ipv4/tcp_rmem": Key("receive buffer of a TCP socket: least, first, most", numbers=3, unit="bytes"),
    "net/ipv4/tcp_slow_start_after_idle": Key("whether the window shrinks on an idle connection", ("1", "0")),
    "net/ipv4/tcp_syncookies": Key("SYN cookies: 0 off, 1 on overflow, 2 always", ("0", "1", "2")),
    "net/ipv4/tcp_tw_reuse": Key(
        "ports in TIME_WAIT for new connections: 0 no, 2 loopback, 1 all", ("0", "2", "1")
    ),
    "net/ipv4/tcp_wmem": Key("send buffer of a TCP socket: least, first, most", numbers=3, unit="bytes"),
    "net/netfilter/nf_conntrack_buckets": Key("hash table of tracked connections"),
    "net/netfilter/nf_conntrack_max": Key("tracked connections; packets of further ones are dropped"),
    "vm/max_map_count": Key("memory mappings of one process"),
}

_CAP = re.compile(r"(?:^|[-_])max(?:[-_]|$)")
_UTS = re.compile(r"kernel/(?:hostname|domainname)")
_IPC = re.compile(r"kernel/(?:shm|msg|sem)|fs/mqueue/")
_PID = re.compile(r"kernel/(?:pid_max|ns_last_pid)")
_OTHERS: tuple[tuple[Namespace, re.Pattern[str]], ...] = (("uts", _UTS), ("ipc", _IPC), ("pid", _PID))


def more_of(key: str) -> More | None:
    """In which direction a key gives more; None: not known. A key named a maximum is a limit: larger."""
    if known := KEYS.get(key):
        return known.more
    return "larger" if _CAP.search(key.rpartition("/")[2]) else None


def namespace_of(key: str) -> Namespace | None:
    """The kind of namespace that may have a value of its own for this key; None: one for the whole host.

    Some of net/ are the host's, but those are shown and written in its first network namespace alone.
    """
    if key.startswith("net/"):
        return "net"
    if key.startswith("user/"):
        return "user"
    for kind, pattern in _OTHERS:
        if pattern.match(key):
            return kind
    return None


def dotted(key: str) -> str:
    """net/ipv4/conf/eth0.100/rp_filter -> net.ipv4.conf.eth0/100.rp_filter, as sysctl(8) prints it."""
    return key.translate(str.maketrans("./", "/."))
