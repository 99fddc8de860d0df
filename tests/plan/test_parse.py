import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connprobe.errors import UsageError
from connprobe.plan.parse import (
    parse_alias,
    parse_count_or_auto,
    parse_duration,
    parse_header,
    parse_ports,
    parse_target,
)

PARSERS: dict[str, Callable[[str], object]] = {
    "--for": lambda text: parse_duration(text, "--for"),
    "--target": parse_target,
    "--header": parse_header,
    "--source-ports": parse_ports,
    "--workers": lambda text: parse_count_or_auto(text, "--workers"),
    "--alias": parse_alias,
}
# What people and their shells type, in pieces, so that odd combinations come up soon.
typed = st.text() | st.lists(
    st.sampled_from(
        [*"[]:%/-_,. 0159smh", "::1", "http://", "65535", "auto", "eth0", "٣", "ü", "\r\n", "\udcff"]
    ),
    max_size=9,
).map("".join)


@pytest.mark.parametrize("option", PARSERS)
@given(text=typed)
@example(text=",")
@example(text="_")
@example(text="1__0")
@example(text="9" * 5000)
def test_only_usage_errors_and_each_names_its_option(option: str, text: str) -> None:
    try:
        PARSERS[option](text)
    except UsageError as error:
        refused = error
    else:
        return
    assert refused.message.startswith(option)
    assert refused.message.isprintable()
    assert refused.fix


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("250ms", 0.25),
        ("5m", 300),
        ("1.5h", 5400),
        ("7", 7),
        (" 2s ", 2),
        ("0", 0),
        ("720h", 30 * 86400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--for") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "1d", "1 s", "1e3s", "inf", "nan", ".5s", "5.s", "721h", "٣s"]
)
def test_not_durations(text: str) -> None:
    with pytest.raises(UsageError, match="--for"):
        parse_duration(text, "--for")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("host:8080", "host", 8080),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[::1]:8080", "::1", 8080),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ("[fe80::1%br-lan.23]:1", "fe80::1%br-lan.23", 1),
        ("[::ffff:10.0.0.1]:443", "::ffff:10.0.0.1", 443),
        (" host.example.:443\n", "host.example.", 443),
        ("under_score-host:00080", "under_score-host", 80),
        ("münchen.example:80", "xn--mnchen-3ya.example", 80),
    ],
)
def test_targets(text: str, host: str, port: int) -> None:
    assert parse_target(text) == (host, port)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host", "has no port"),
        ("host:", "port ''"),
        (":80", "has no port"),
        ("", "has no port"),
        ("[::1]", "has no port"),
        ("host:0", "not between 1 and 65535"),
        ("host:65536", "not between 1 and 65535"),
        ("host:-1", "not between 1 and 65535"),
        ("host:+80", "not between 1 and 65535"),
        ("host:1_0", "not between 1 and 65535"),
        ("host:" + "9" * 3000, "not between 1 and 65535"),
        ("http://host:80", "is not HOST:PORT"),
        ("http://host:80/path", "is not HOST:PORT"),
        ("ws://host", "is not HOST:PORT"),
        ("host:80/path", "is not HOST:PORT"),
        ("user@host:80", "is not HOST:PORT"),
        ("a b:80", "is not HOST:PORT"),
        ("a\x00b:80", "is not HOST:PORT"),
        ("a:b:80", "is not HOST:PORT"),
        ("[]:80", "no IPv6 address"),
        ("[host]:80", "no IPv6 address"),
        ("[10.0.0.1]:80", "no IPv6 address"),
        ("[::1:80", "is not HOST:PORT"),
        ("::1]:80", "is not HOST:PORT"),
        ("ü" * 70 + ":80", "no host name"),
        ("\udcff:80", "no host name"),
    ],
)
def test_not_targets(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert said in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("::1", "--target [::1]:8080"),
        ("2001:db8::1", "--target [2001:db8::1]:8080"),
        ("fe80::1%eth0", "--target [fe80::1%eth0]:8080"),
        ("fe80::1%eth0:80", "--target [fe80::1%eth0]:80"),
        ("1:2:3:4:5:6:7:8:80", "--target [1:2:3:4:5:6:7:8]:80"),
    ],
)
def test_ipv6_without_brackets_is_shown_with_them(text: str, fix: str) -> None:
    with pytest.raises(UsageError, match="needs brackets") as caught:
        parse_target(text)
    assert caught.value.fix == fix


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("ws://host:8080/ws", "--target host:8080 --path /ws"),
        ("wss://host/ws?x=1&y=2", "--target host:443 --path '/ws?x=1&y=2' --tls"),
        ("http://[::1]:8080", "--target [::1]:8080 --protocol http"),
        ("https://10.0.0.1/", "--target 10.0.0.1:443 --path / --tls --protocol http"),
    ],
)
def test_a_url_is_answered_with_its_options(text: str, fix: str) -> None:
    with pytest.raises(UsageError, match="but a URL") as refused:
        parse_target(text)
    assert refused.value.fix == fix


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_every_ipv6_address(address: ipaddress.IPv6Address, port: int) -> None:
    assert parse_target(f"[{address}]:{port}") == (str(address), port)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("Authorization: Bearer a:b", ("Authorization", "Bearer a:b")),
        ("X-Empty:", ("X-Empty", "")),
        ("x: \t padded \t", ("x", "padded")),
        ("x:caf\xe9", ("x", "caf\xe9")),
    ],
)
def test_headers(text: str, pair: tuple[str, str]) -> None:
    assert parse_header(text) == pair


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no colon",
        ": x",
        "a b: x",
        "a : x",
        "a:\r\nb: y",
        "a: x\n",
        "a: \x00",
        "a: x\x7f",
        "a: €",
        "ä: x",
        "a: \udcff",
    ],
)
def test_not_headers(text: str) -> None:
    with pytest.raises(UsageError, match="is not a header"):
        parse_header(text)


@given(st.text())
def test_what_passes_can_be_sent(text: str) -> None:
    try:
        name, value = parse_header(f"X: {text}")
    except UsageError:
        return
    line = f"{name}: {value}".encode("latin-1")
    assert not set(line) & {0, 10, 13}


def test_ports() -> None:
    assert parse_ports("1024-65535") == (1024, 65535)
    assert parse_ports(" 7777-7777 ") == (7777, 7777)
    for text in (
        "",
        "1024",
        "1023-2000",
        "9000-8000",
        "1024-65536",
        "1024 - 2000",
        "-1-9",
        "1024-2000-",
        "1024:65535",
        "٣-٩",
    ):
        with pytest.raises(UsageError, match="not a range of unprivileged ports"):
            parse_ports(text)


def test_counts() -> None:
    assert parse_count_or_auto("auto", "--workers") is None
    assert parse_count_or_auto("54", "--workers") == 54
    assert parse_count_or_auto("1_000,000", "--workers") == 1_000_000
    for text in ("", "0", "-1", "1.5", ",", "_,_", "AUTO", " 3", "000", "٣", "9" * 13):
        with pytest.raises(UsageError, match="--workers"):
            parse_count_or_auto(text, "--workers")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("eth0:10.0.0.0/24", ("eth0", "10.0.0.0/24")),
        ("eth0:fd00::/64", ("eth0", "fd00::/64")),
        ("br-lan.23:fd00::1,fd00::2", ("br-lan.23", "fd00::1,fd00::2")),
        ("lo:::2", ("lo", "::2")),
        ("wg@peer_0:10.0.0.1-10.0.0.9", ("wg@peer_0", "10.0.0.1-10.0.0.9")),
    ],
)
def test_aliases(text: str, parts: tuple[str, str]) -> None:
    assert parse_alias(text) == parts


@pytest.mark.parametrize(
    "text", ["", "eth0", "eth0:", ":10.0.0.1", "a/b:10.0.0.1", "a b:10.0.0.1", "x" * 16 + ":::1"]
)
def test_not_aliases(text: str) -> None:
    with pytest.raises(UsageError, match="IFACE:CIDR"):
        parse_alias(text)
