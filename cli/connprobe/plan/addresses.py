"""Address lists as people type them, checked part by part before anything on the host is touched.

A `/8` is one character away from a `/28`, so the size of a part is known before its first address is made.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from connprobe.errors import UsageError

MOST_ADDRESSES = 1_000_000

_FORMS = "write 10.0.0.2,10.0.0.9 or 10.0.0.2-10.0.0.40 or 10.0.0.0/24, or the same with IPv6 addresses"

_Address = IPv4Address | IPv6Address


def parse_addresses(text: str) -> tuple[str, ...]:
    """The addresses of a comma-separated list of addresses, ranges and networks, in order, each once.

    Of a network its host addresses: all of a /31, /32, /127 or /128, otherwise not the network and
    broadcast addresses (IPv4) nor the subnet-router anycast address (IPv6, RFC 4291 section 2.6.1).

    Raises UsageError naming the part that is wrong, or the figure when it is more than MOST_ADDRESSES.
    """
    total = 0
    expanded = []
    for part in map(str.strip, text.split(",")):
        count, addresses = _expand(part, text)
        expanded.append(addresses)
        total += count
        if total > MOST_ADDRESSES:
            raise UsageError(
                f"{part!r} makes it {total:,} addresses, more than {MOST_ADDRESSES:,}",
                fix="name a smaller network or range: one address gives tens of thousands of connections",
            )
    return tuple(dict.fromkeys(str(address) for addresses in expanded for address in addresses))


def _expand(part: str, text: str) -> tuple[int, Iterator[_Address]]:
    """How many addresses a part stands for, and the addresses, made only when iterated."""
    if not part:
        raise UsageError(f"the address list {text!r} has an empty part", fix=_FORMS)
    if "/" in part:
        return _network(part)
    first_text, dash, last_text = part.partition("-")
    first = _address(first_text.strip(), part)
    last = _address(last_text.strip(), part) if dash else first
    if first.version != last.version:
        raise UsageError(f"the range {part!r} goes from IPv{first.version} to IPv{last.version}", fix=_FORMS)
    if int(last) < int(first):
        raise UsageError(f"the range {part!r} runs backwards", fix=f"write {last}-{first}")
    kind = type(first)
    return int(last) - int(first) + 1, (kind(number) for number in range(int(first), int(last) + 1))


def _network(part: str) -> tuple[int, Iterator[_Address]]:
    try:
        network = ip_network(part, strict=False)
    except ValueError as error:
        raise UsageError(f"{part!r} is not a network: {error}", fix=_FORMS) from None
    _address(str(network.network_address), part)
    _address(str(network.broadcast_address), part)
    typed = part.partition("/")[0]
    if ip_address(typed) != network.network_address:
        raise UsageError(
            f"{part!r} has host bits set", fix=f"write {network} for the network, {typed} for the address"
        )
    skipped = 0
    if network.prefixlen < network.max_prefixlen - 1:
        skipped = 2 if network.version == 4 else 1
    return network.num_addresses - skipped, iter(network.hosts())


def _address(text: str, part: str) -> _Address:
    try:
        address = ip_address(text)
    except ValueError:
        within = f" in {part!r}" if text != part else ""
        raise UsageError(f"{text!r}{within} is not an IP address", fix=_FORMS) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise UsageError(
            f"{text!r} in {part!r} names an interface", fix="leave out the % and what follows it"
        )
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise UsageError(
            f"{part!r} contains {address}, which no connection can come from", fix="name unicast addresses"
        )
    return address
