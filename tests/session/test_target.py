import socket

import pytest

from connprobe.errors import RunFailed
from connprobe.session.target import resolve, route_to, sockaddr
from connprobe.system.facts import read_facts


def test_ipv4() -> None:
    target = resolve("127.0.0.1", 8080)
    assert (target.address, target.family, target.scope_id) == ("127.0.0.1", "ipv4", 0)
    assert target.label == "127.0.0.1:8080"
    assert sockaddr(target) == ("127.0.0.1", 8080)


def test_ipv6() -> None:
    target = resolve("::1", 8080)
    assert (target.address, target.family) == ("::1", "ipv6")
    assert target.label == "[::1]:8080"
    assert sockaddr(target) == ("::1", 8080, 0, 0)


def test_the_zone_becomes_a_number() -> None:
    target = resolve("fe80::1%lo", 80)
    assert (target.address.partition("%")[0], target.scope_id) == ("fe80::1", socket.if_nametoindex("lo"))
    assert sockaddr(target)[3] == socket.if_nametoindex("lo")


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "\0", "fe80::1%no-such-if", "host.invalid"])
def test_what_does_not_resolve(host: str) -> None:
    with pytest.raises(RunFailed, match="does not resolve") as caught:
        resolve(host, 80)
    assert caught.value.fix


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_is_on_this_host(address: str) -> None:
    if ":" in address and not socket.has_ipv6:
        pytest.skip("this Python has no IPv6: use one that was built with it")
    route = route_to(resolve(address, 80), read_facts())
    assert route.on_this_host
    assert route.interface == "lo"
    assert route.sources[0] == route.source
    assert len(set(route.sources)) == len(route.sources)


def test_the_embedded_server_is_too() -> None:
    assert route_to(None, read_facts()).on_this_host
