"""The few rtnetlink requests connprobe makes, typed: pyroute2 hands out messages without types."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

_RTN_LOCAL = 2  # linux/rtnetlink.h
_IFA_F_NODAD = 0x02  # linux/if_addr.h: no duplicate address detection, so bind(2) works at once (RFC 4862)


class AddressFound(NamedTuple):
    """One RTM_NEWADDR message. `created_cs`: jiffies since boot when it was made, in 1/100 s modulo 2^32."""

    ifindex: int
    address: str
    prefix: int
    family: int
    created_cs: int


class RouteFound(NamedTuple):
    ifindex: int
    source: str
    is_local: bool


class Refused(Exception):
    """The kernel's answer to a request: an errno."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return os.strerror(self.code)


class Connection:
    """Requests in the network namespace of this process. Every method raises Refused."""

    def __init__(self, ipr: Any) -> None:
        self._ipr = ipr

    def addresses(self) -> list[AddressFound]:
        """All addresses, in the kernel's order (RTM_GETADDR)."""
        with _refusals():
            return [
                AddressFound(
                    ifindex=message["index"],
                    # On a point-to-point link IFA_ADDRESS is the peer's; IPv6 sends IFA_LOCAL only there.
                    address=message.get("local") or message.get("address"),
                    prefix=message["prefixlen"],
                    family=message["family"],
                    created_cs=message.get("cacheinfo")["cstamp"],
                )
                for message in self._ipr.get_addr()
                if message["family"] in (socket.AF_INET, socket.AF_INET6)
            ]

    def add(self, ifindex: int, address: str) -> None:
        """RTM_NEWADDR with NLM_F_EXCL, as /32 or /128."""
        options = {"prefixlen": 128, "flags": _IFA_F_NODAD} if ":" in address else {"prefixlen": 32}
        with _refusals():
            self._ipr.addr("add", index=ifindex, address=address, **options)

    def delete(self, found: AddressFound) -> None:
        """RTM_DELADDR."""
        with _refusals():
            self._ipr.addr("del", index=found.ifindex, address=found.address, prefixlen=found.prefix)

    def route(self, address: str, scope_id: int) -> RouteFound:
        """RTM_GETROUTE for one address."""
        options = {"oif": scope_id} if scope_id else {}
        with _refusals():
            message = self._ipr.route("get", dst=address, **options)[0]
        return RouteFound(message.get("oif"), message.get("prefsrc") or "", message["type"] == _RTN_LOCAL)

    def is_local(self, address: str) -> bool:
        """Whether packets to this address stay on this host."""
        try:
            return self.route(address, 0).is_local
        except Refused:
            return False

    def has_ipv4_routes(self, ifindex: int) -> bool:
        with _refusals():
            return any(
                message.get("oif") == ifindex for message in self._ipr.get_routes(family=socket.AF_INET)
            )


@contextmanager
def rtnetlink() -> Iterator[Connection]:
    from pyroute2 import IPRoute  # 14 MB and 0.1 s: only for those who ask

    with IPRoute() as ipr:
        yield Connection(ipr)


@contextmanager
def _refusals() -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise Refused(error.code) from error
