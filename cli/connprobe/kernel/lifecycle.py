"""How many connections open, end and are established, by port and role (probes/lifecycle.bpf.c).

The count of established connections needs no walk over all sockets: what one census found, plus those that
opened, less those that left.
"""

import socket
import struct
import sys
from collections.abc import Mapping
from typing import Literal, NamedTuple

from connprobe.kernel.btf import Btf, Field, Missing
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Hook, Probe, Rung

PORTS, EVENTS, ODD_ROLES = 4096, 16384, 65536
Role = Literal["server", "client", "none"]
_ROLES: tuple[Role, ...] = ("server", "client", "none")
_ENDED, _RESET_SENT, _RESET_RECEIVED = range(3)
_PLACE = struct.Struct("QIHH")
_EVENT = struct.Struct("QIHH2I")
_COUNTS = struct.Struct("3Q")
_LOST = ("ports_full", "events_full", "roles_full")
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14
_REASON = "SK_RST_REASON_"
STATES = (  # enum of include/net/tcp_states.h: part of the kernel's interface to user space
    *("", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"),
    *("CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"),
)
_HANDSHAKE = ("SYN_SENT", "SYN_RECV")
_FIELDS = (
    Field("sock", "__sk_common.skc_state", 1),
    Field("sock", "__sk_common.skc_dport", 2),
    Field("sock", "__sk_common.skc_num", 2),
    Field("sock", "__sk_common.skc_net.net", 8),
    Field("sock", "sk_protocol", 2),
    Field("sock", "sk_max_ack_backlog", 4),
    Field("inet_sock", "inet_sport", 2),
    Field("net", "net_cookie", 8),
    Field("net", "ns.inum", 4),
    Field("net_device", "nd_net.net", 8),
    Field("sk_buff", "dev", 8),
    Field("sk_buff", "cb", None),
    Field("tcp_skb_cb", "tcp_gso_segs", 2),
)
_HOOKS = (
    Hook("raw_tracepoint", "inet_sock_set_state", "set_state", ("sock", "int", "int"), typed=True),
    Hook("raw_tracepoint", "tcp_destroy_sock", "destroy", ("sock",)),
    Hook("raw_tracepoint", "tcp_retransmit_skb", "retransmit", ("sock", "sk_buff")),
    Hook("raw_tracepoint", "tcp_receive_reset", "reset_received", ("sock",), typed=True),
    Hook("iter", "tcp", "bpf_iter__tcp"),
)
_SEND_RESET = ("sock", "sk_buff", "sk_rst_reason")
_WITH_REASON = "raw tracepoints, resets with reason"


def probe(ports: int = PORTS, events: int = EVENTS, odd_roles: int = ODD_ROLES) -> Probe:
    """The probe, with room for so many (namespace, role, port); so many of these by how connections ended and
    why they were reset; and so many connections whose role their socket does not tell (listen(fd, 0))."""
    return Probe(
        "lifecycle",
        (
            Rung(
                _WITH_REASON,
                (*_HOOKS, Hook("raw_tracepoint", "tcp_send_reset", "reset_sent", _SEND_RESET)),
                _FIELDS,
                {"RESET_REASON": 1},
            ),
            Rung(
                "raw tracepoints, resets without reason",
                (*_HOOKS, Hook("raw_tracepoint", "tcp_send_reset", "reset_sent", _SEND_RESET[:2])),
                _FIELDS,
            ),
        ),
        {"PORTS": ports, "EVENTS": events, "ROLES": odd_roles},
    )


class Place(NamedTuple):
    """Where connections are counted together.

    server: children of a listener on this local port. client: those that connected to this remote port.
    none: resets that belong to no connection, of any port (0).
    """

    role: Role
    port: int
    netns: int
    netns_cookie: int


class Connections(NamedTuple):
    """Those of one place, IPv4 and IPv6 together. Counts are since the probe was attached."""

    at: Place
    opened: int
    left: int  # the state ESTABLISHED, by FIN or reset of either side
    before: (
        int | None
    )  # established as the probe came; None in other network namespaces, where no census goes
    within: int  # how much `before` may be off: what opened and left while the census was taken
    ended: Mapping[
        str, int
    ]  # by the state they were in: from ESTABLISHED or CLOSE_WAIT without a FIN of ours
    failed: int  # handshakes that ended before they were over
    resets_sent: int
    reset_reasons: Mapping[str, int] | None  # enum sk_rst_reason; None where the kernel tells none
    resets_received: Mapping[str, int]  # by the state the connection was in: SYN_SENT where it was refused
    retransmits: int  # segments, SYNs among them; SYN-ACKs are in `syn_queue`

    @property
    def established(self) -> int | None:
        """Now in the state ESTABLISHED."""
        return None if self.before is None else self.before + self.opened - self.left

    @property
    def closed(self) -> int:
        """Connections that were open and are no more, but for TIME_WAIT."""
        return sum(self.ended.values())


class Reading(NamedTuple):
    connections: tuple[Connections, ...]
    lost: dict[str, int]  # what could not be counted, by cause; empty where all was

    @property
    def complete(self) -> bool:
        return not self.lost


class Lifecycle:
    """Reads a live `lifecycle`. `read` and `census` may raise OSError where the probe was torn away."""

    def __init__(self, live: Live, btf: Btf | None = None) -> None:
        self._live = live
        self._reasons: dict[int, str] | None = None
        if live.rung == _WITH_REASON:
            try:
                self._reasons = (btf or Btf.of_kernel()).enum("sk_rst_reason")
            except Missing:
                self._reasons = {}  # then reasons are numbers
        self.census()

    def census(self) -> None:
        """Walk over all sockets of this network namespace, 0.6 s for 800,000, and learn who is there."""
        found = self._live.maps["census"]
        for key, _ in found.items():
            found.delete(key)
        first = self._opened_and_left()
        self._live.run_iterator("tcp")
        second = self._opened_and_left()
        there = {_place(key): int.from_bytes(values[0], sys.byteorder) for key, values in found.items()}
        with socket.socket() as here:
            cookie = here.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        self._netns_cookie = int.from_bytes(cookie, sys.byteorder)
        self._before: dict[Place, tuple[int, int]] = {}
        for place in {*there, *second}:
            (opened, left), (opened_then, left_then) = first.get(place, (0, 0)), second.get(place, (0, 0))
            moved = opened_then - opened + left_then - left
            self._before[place] = (there.get(place, 0) - (opened - left), moved)

    def read(self) -> Reading:
        # Ends are read before opens: whatever has ended by now has also opened and left.
        events: dict[Place, tuple[dict[int, int], dict[int, int], dict[int, int]]] = {}
        for key, values in self._live.maps["events"].items():
            *at, kind, detail = _EVENT.unpack(key)
            total = sum(int.from_bytes(value, sys.byteorder) for value in values)
            events.setdefault(_place(_PLACE.pack(*at)), ({}, {}, {}))[kind][detail] = total
        ports = {_place(key): _counts(values) for key, values in self._live.maps["ports"].items()}
        places = {*ports, *events, *(place for place, (count, _) in self._before.items() if count)}
        found = [
            self._connections(place, ports.get(place, (0, 0, 0)), events.get(place, ({}, {}, {})))
            for place in sorted(places, key=lambda place: (place.netns, place.role, place.port))
        ]
        return Reading(tuple(found), self._live.lost(_LOST))

    def _connections(
        self, at: Place, counts: tuple[int, int, int], events: tuple[dict[int, int], ...]
    ) -> Connections:
        opened, left, retransmits = counts
        before, within = self._before.get(at, (0, 0))
        ends = {STATES[state]: count for state, count in events[_ENDED].items()}
        sent = events[_RESET_SENT]
        return Connections(
            at=at,
            opened=opened,
            left=left,
            before=before if at.netns_cookie == self._netns_cookie else None,
            within=within,
            ended={state: count for state, count in ends.items() if state not in _HANDSHAKE},
            failed=sum(ends.get(state, 0) for state in _HANDSHAKE),
            resets_sent=sum(sent.values()),
            reset_reasons=None
            if self._reasons is None
            else {
                self._reasons.get(reason, str(reason)).removeprefix(_REASON): n for reason, n in sent.items()
            },
            resets_received={STATES[state]: count for state, count in events[_RESET_RECEIVED].items()},
            retransmits=retransmits,
        )

    def _opened_and_left(self) -> dict[Place, tuple[int, int]]:
        return {_place(key): _counts(values)[:2] for key, values in self._live.maps["ports"].items()}


def _place(key: bytes) -> Place:
    cookie, netns, port, role = _PLACE.unpack(key)
    return Place(_ROLES[role], port, netns, cookie)


def _counts(values: list[bytes]) -> tuple[int, int, int]:
    opened, left, retransmits = (sum(column) for column in zip(*map(_COUNTS.unpack, values), strict=True))
    return opened, left, retransmits
