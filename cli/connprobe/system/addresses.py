"""This host's addresses: which there are, which one a connection would come from, and more of them for
the length of a run, since each source address brings its own set of ports.

Removing them again is the delicate half: an address is taken away only when its creation stamp says
that it is the one added here, never because it merely looks the same.
"""

import errno
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple, cast

from connprobe.errors import ConnprobeError, RunFailed, UsageError
from connprobe.model import InterfaceAddress
from connprobe.system.rtnetlink import AddressFound, Connection, Refused, rtnetlink

Entry = dict[str, object]

# Addresses in one undo entry. The kernel walks its list for each: 10,000 took 6 s (IPv4), 43 s (IPv6).
_CHUNK = 5000

# The creation stamp (IFA_CACHEINFO cstamp; cstamp_delta() in net/ipv4/devinet.c and net/ipv6/addrconf.c)
# counts jiffies. Those start with the first tick, so they lag CLOCK_MONOTONIC by a constant: 0.2 s here.
_LAG_CS = 500
# Killed while adding, a run leaves no stamps to compare with: ours are those made this soon after the entry.
_ADDING_CS = 12_000
_LOCAL_S = 30  # for an IPv6 address to become local
_WRAP_CS = 1 << 32  # cstamp is 32 bits wide: 497 days


class Route(NamedTuple):
    """How this host reaches an address: out of `interface`, from `source`. A local one goes by lo."""

    interface: str
    source: str
    is_local: bool


class AddressesUndone(NamedTuple):
    """What became of an entry's addresses. Those that were gone already are in none of the three."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()  # sentences: somebody else's by now
    pending: tuple[str, ...] = ()  # sentences: still ours, still there


def local_addresses() -> tuple[InterfaceAddress, ...]:
    """All addresses of this network namespace (source: RTM_GETADDR)."""
    with rtnetlink() as netlink:
        found = netlink.addresses()
    return tuple(
        InterfaceAddress(
            interface=_name(each.ifindex),
            address=each.address,
            prefix=each.prefix,
            family="ipv4" if each.family == socket.AF_INET else "ipv6",
        )
        for each in found
    )


def source_for(target_address: str, scope_id: int = 0) -> Route:
    """Ask the routing table (RTM_GETROUTE). Raises RunFailed when there is no route."""
    try:
        with rtnetlink() as netlink:
            route = netlink.route(target_address, scope_id)
    except Refused as refusal:
        raise RunFailed(
            f"no route to {target_address}: {refusal}", fix=f"ip route get {target_address}"
        ) from None
    return Route(_name(route.ifindex), route.source, route.is_local)


def add_addresses(interface: str, addresses: Sequence[str], record: Callable[[Entry], None]) -> list[str]:
    """Add those that this host does not have yet to `interface`, and return them.

    Added as /32 or /128: then no route to a subnet appears, and none becomes the secondary of another,
    which the kernel would delete along with it (__inet_del_ifa in net/ipv4/devinet.c).

    `record` gets each undo entry before the first of its addresses is added, and again under the same
    "id" once all are there, then with the addresses really added and their creation stamps.

    Raises UsageError for an unknown interface, RunFailed when the kernel refuses: see the entries then.
    """
    try:
        ifindex = socket.if_nametoindex(interface)
    except OSError:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise UsageError(f"there is no interface {interface!r}", fix=f"name one of: {names}") from None
    added: list[str] = []
    entries: list[Entry] = []
    with rtnetlink() as netlink:
        present = netlink.addresses()
        missing = _missing(addresses, present)
        _refuse_unnumbered(netlink, interface, ifindex, missing, present)
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            since_cs = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 10_000_000
            entries.append(
                {
                    "kind": "address",
                    "id": f"address/{ifindex}/{chunk[0]}/{since_cs}",
                    "interface": interface,
                    "ifindex": ifindex,
                    "netns": _netns(),
                    "since_cs": since_cs,
                    "addresses": chunk,
                }
            )
            record(entries[-1])
            added += [address for address in chunk if _add(netlink, interface, ifindex, address)]
        _wait_until_local(netlink, interface, [each for each in added if ":" in each])
        ours = set(added)
        stamps = {
            each.address: each.created_cs
            for each in (netlink.addresses() if added else ())
            if each.ifindex == ifindex and each.address in ours
        }
    for entry in entries:
        stamped = [each for each in cast(list[str], entry["addresses"]) if each in stamps]
        record({**entry, "addresses": stamped, "created_cs": [stamps[each] for each in stamped]})
    return added


def remove_addresses(entry: Entry) -> AddressesUndone:
    """Remove the addresses of an entry of `add_addresses` that are still the ones it added.

    That is: on the interface it was, by index, and created then. Looks again afterwards; what the kernel
    refuses is not raised but said in `pending`. An entry of another network namespace is pending.
    """
    addresses = cast(list[str], entry["addresses"])
    if entry["netns"] != _netns():
        where = f"{entry['interface']} in the network namespace {entry['netns']}"
        return AddressesUndone(pending=(f"{len(addresses)} addresses on {where}: to be removed from there",))
    created = dict(
        zip(addresses, cast(list[int], entry.get("created_cs", [None] * len(addresses))), strict=True)
    )
    since = cast(int, entry["since_cs"])

    def is_ours(found: AddressFound) -> bool:
        stamp = created[found.address]
        if found.ifindex != entry["ifindex"] or stamp is not None:
            return found.ifindex == entry["ifindex"] and found.created_cs == stamp
        return (found.created_cs - since + _LAG_CS) % _WRAP_CS <= _LAG_CS + _ADDING_CS

    refusals: dict[AddressFound, ConnprobeError] = {}
    with rtnetlink() as netlink:
        found = [each for each in netlink.addresses() if each.address in created]
        ours = {each: None for each in found if is_ours(each)}
        for each in ours:
            try:
                netlink.delete(each)
            except Refused as refusal:
                refusals[each] = _refused(refusal, "removed from", _name(each.ifindex), each.address)
        still = ours.keys() & set(netlink.addresses()) if ours else set()
    theirs = (each for each in found if each not in ours)
    return AddressesUndone(
        removed=tuple(each.address for each in ours if each not in still),
        kept=tuple(
            f"{each.address} on {_name(each.ifindex)}: not the one that was added, left alone"
            for each in theirs
        ),
        pending=tuple(
            str(refusals.get(each, f"{each.address} is still there")) for each in ours if each in still
        ),
    )


def _missing(addresses: Sequence[str], present: Sequence[AddressFound]) -> list[str]:
    """What has to be added, each once. All of 127.0.0.0/8 can be bound to already."""
    here = {ip_address(each.address) for each in present}
    wanted = dict.fromkeys(ip_address(each) for each in addresses)
    return [str(each) for each in wanted if each not in here and not each.is_loopback]


def _refuse_unnumbered(
    netlink: Connection, interface: str, ifindex: int, missing: list[str], present: Sequence[AddressFound]
) -> None:
    """Refuse where removing the added addresses would take routes along.

    With an interface's last IPv4 address go all its routes (fib_inetaddr_event in net/ipv4/fib_frontend.c).
    """
    if all(":" in each for each in missing):
        return
    if any(each.ifindex == ifindex and each.family == socket.AF_INET for each in present):
        return
    if netlink.has_ipv4_routes(ifindex):
        raise RunFailed(
            f"{interface} has IPv4 routes but no IPv4 address: they would go with the last one added",
            fix=f"sudo ip address add {missing[0]}/32 dev {interface}",
        )


def _add(netlink: Connection, interface: str, ifindex: int, address: str) -> bool:
    """False: somebody else was faster. Raises RunFailed."""
    try:
        netlink.add(ifindex, address)
    except Refused as refusal:
        if refusal.code == errno.EEXIST:
            return False
        raise _refused(refusal, "added to", interface, address) from None
    return True


def _wait_until_local(netlink: Connection, interface: str, addresses: Sequence[str]) -> None:
    """Without duplicate address detection the kernel puts the local route of an IPv6 address in from a work
    queue (addrconf_dad_work in net/ipv6/addrconf.c): 0.1 s later on a busy host. Until then bind(2) works,
    but packets to the address, and so all answers, are looked for on the wire.
    """
    deadline = time.monotonic() + _LOCAL_S
    for address in addresses:
        while not netlink.is_local(address):
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"{address} was added to {interface}, but no route leads to it after {_LOCAL_S} s",
                    fix=f"ip route get {address}",
                )
            time.sleep(0.001)


def _refused(refusal: Refused, what: str, interface: str, address: str) -> RunFailed:
    by_hand = (
        f"ip address {'add' if what == 'added to' else 'delete'} {address}/{128 if ':' in address else 32}"
    )
    message = f"{address} cannot be {what} {interface}: {refusal}"
    if refusal.code == errno.EPERM:
        return RunFailed(
            f"{message}: it takes CAP_NET_ADMIN",
            fix=f"run connprobe with sudo, or: sudo {by_hand} dev {interface}",
        )
    if refusal.code == errno.EACCES and ":" in address:
        return RunFailed(
            f"{message}: IPv6 is disabled there",
            fix=f"sudo sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0",
        )
    return RunFailed(message, fix=f"sudo {by_hand} dev {interface}")


def _name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"if{ifindex}"  # went away since


def _netns() -> int:
    return Path("/proc/self/ns/net").stat().st_ino
