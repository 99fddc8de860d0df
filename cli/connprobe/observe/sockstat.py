"""How many sockets exist, and what they queue: constant time, whatever their number."""

from pathlib import Path
from typing import NamedTuple


class SocketCounts(NamedTuple):
    """Source: /proc/net/sockstat and sockstat6. None: the file does not tell.

    Of one network namespace: `tcp_inuse` (hashed sockets, IPv4 and IPv6, TIME_WAIT not among them) and
    `time_wait`. Of the whole host: `orphan`, `alloc` (every TCP socket, in whatever state) and
    `memory_pages`, which TCP accounts for queued data and of which idle connections need none.
    """

    tcp_inuse: int | None
    time_wait: int | None
    orphan: int | None
    alloc: int | None
    memory_pages: int | None


def read_socket_counts(pid: int | None = None) -> SocketCounts:
    """A snapshot, of the network namespace of process `pid` (None: our own). OSError: not readable.

    Without IPv6 in the kernel the IPv4 sockets are all there are.
    """
    folder = Path("/proc", "self" if pid is None else str(pid), "net")
    text = (folder / "sockstat").read_text()
    try:
        text6 = (folder / "sockstat6").read_text()
    except FileNotFoundError:
        text6 = ""
    return socket_counts(text, text6)


def socket_counts(text: str, text6: str = "") -> SocketCounts:
    """From the texts of sockstat and sockstat6."""
    tcp, tcp6 = parse_sockstat(text).get("TCP", {}), parse_sockstat(text6).get("TCP6", {})
    inuse = tcp.get("inuse")
    return SocketCounts(
        tcp_inuse=None if inuse is None else inuse + tcp6.get("inuse", 0),
        time_wait=tcp.get("tw"),
        orphan=tcp.get("orphan"),
        alloc=tcp.get("alloc"),
        memory_pages=tcp.get("mem"),
    )


def parse_sockstat(text: str) -> dict[str, dict[str, int]]:
    """{"TCP": {"inuse": 1, ...}}. A figure without a number is left out."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        protocol, colon, rest = line.partition(":")
        words = rest.split()
        if colon:
            pairs = zip(words[::2], words[1::2], strict=False)
            found[protocol.strip()] = {name: int(value) for name, value in pairs if _is_number(value)}
    return found


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal() and word.isascii()
