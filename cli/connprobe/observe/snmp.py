"""What TCP counted in a network namespace: overflows, drops, cookies, retransmits, resets.

The counters run since the namespace was made and are of all its sockets. An older kernel lacks some: those
are None, never 0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

COUNTERS: Final = (
    # the accept queue and the SYN queue
    "ListenOverflows",  # the accept queue was full, at a SYN or at the ACK that ends the handshake
    "ListenDrops",  # connection requests that a listener dropped for any reason, overflows among them
    "TCPReqQFullDrop",  # the SYN queue was full and cookies are off: dropped
    "TCPReqQFullDoCookies",  # it was full: answered with a cookie
    "SyncookiesSent",
    "SyncookiesRecv",
    "SyncookiesFailed",
    "TCPDeferAcceptDrop",
    "PassiveOpens",
    # opening
    "ActiveOpens",
    "AttemptFails",
    "TCPSynRetrans",
    # losing
    "EstabResets",
    "OutRsts",
    "TCPAbortOnData",
    "TCPAbortOnClose",
    "TCPAbortOnMemory",
    "TCPAbortOnTimeout",
    "TCPAbortOnLinger",
    "TCPAbortFailed",
    "TCPKeepAlive",
    # sending
    "InSegs",
    "OutSegs",
    "RetransSegs",
    "TCPTimeouts",
    "TCPLostRetransmit",
    "TCPRetransFail",
    # memory
    "TCPMemoryPressures",
    "TCPMemoryPressuresChrono",  # ms spent under pressure
    "PruneCalled",
    "RcvPruned",
    "OfoPruned",
    "TCPRcvCollapsed",
    "TCPBacklogDrop",
    "TCPRcvQDrop",
    "TCPOFODrop",
    "TCPTimeWaitOverflow",
    "PFMemallocDrop",
)
_BLOCKS = ("Tcp", "TcpExt")


def read_counters(pid: int | None = None) -> dict[str, int]:
    """TCP's counters, and CurrEstab, of the network namespace of `pid` (None: our own).

    Source: /proc/PID/net/snmp and netstat. OSError: the process is gone or the files may not be read.
    """
    folder = Path("/proc", "self" if pid is None else str(pid), "net")
    return parse_counters((folder / "snmp").read_text() + "\n" + (folder / "netstat").read_text())


def parse_counters(text: str) -> dict[str, int]:
    """The blocks Tcp and TcpExt of either file: a line of names, then one of as many numbers.

    A block whose lines do not match in length, or a figure that is no number, is left out.
    """
    found: dict[str, int] = {}
    names: dict[str, list[str]] = {}
    for line in text.splitlines():
        block, colon, rest = line.partition(":")
        if not colon or block not in _BLOCKS:
            continue
        words = rest.split()
        header = names.pop(block, None)
        if header is None:
            names[block] = words
        elif len(header) == len(words):
            numbers = zip(header, words, strict=True)
            found.update((name, int(word)) for name, word in numbers if word.isascii() and word.isdecimal())
    return found


def deltas(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int | None]:
    """How far each of COUNTERS moved. None: this kernel lacks it, or it ran backwards (32 bits were full)."""
    moved: dict[str, int | None] = {}
    for name in COUNTERS:
        early, late = before.get(name), after.get(name)
        moved[name] = None if early is None or late is None or late < early else late - early
    return moved
