import pytest

from connprobe.errors import UsageError
from connprobe.plan.addresses import MOST_ADDRESSES, parse_addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.2", ("10.0.0.2",)),
        ("10.0.0.9,10.0.0.2", ("10.0.0.9", "10.0.0.2")),
        (" 10.0.0.2 , 10.0.0.3 ", ("10.0.0.2", "10.0.0.3")),
        ("10.0.0.2,10.0.0.1-10.0.0.3", ("10.0.0.2", "10.0.0.1", "10.0.0.3")),
        ("10.0.0.254-10.0.1.1", ("10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1")),
        ("10.0.0.7-10.0.0.7", ("10.0.0.7",)),
        ("10.0.0.0/30", ("10.0.0.1", "10.0.0.2")),
        ("10.0.0.4/31", ("10.0.0.4", "10.0.0.5")),
        ("10.0.0.4/32", ("10.0.0.4",)),
        ("10.0.0.0/255.255.255.252", ("10.0.0.1", "10.0.0.2")),
        ("fd00::2,FD00:0:0::3", ("fd00::2", "fd00::3")),
        ("fd00::fffe-fd00::1:1", ("fd00::fffe", "fd00::ffff", "fd00::1:0", "fd00::1:1")),
        ("fd00::/126", ("fd00::1", "fd00::2", "fd00::3")),
        ("fd00::4/127", ("fd00::4", "fd00::5")),
        ("fd00::4/128", ("fd00::4",)),
        ("10.0.0.1,fd00::1", ("10.0.0.1", "fd00::1")),
    ],
)
def test_forms(text: str, expected: tuple[str, ...]) -> None:
    assert parse_addresses(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty part"),
        ("10.0.0.1,,10.0.0.2", "empty part"),
        ("10.0.0.1,10.0.0.256", "'10.0.0.256'"),
        ("10.0.0.1,host.example", "'host.example'"),
        ("10.0.0.1-40", "'40' in '10.0.0.1-40'"),
        ("10.0.0.01", "'10.0.0.01'"),
        ("10.0.0.9-10.0.0.2", "backwards"),
        ("10.0.0.1-fd00::1", "from IPv4 to IPv6"),
        ("10.0.0.5/24", "host bits"),
        ("10.0.0.0/33", "'10.0.0.0/33'"),
        ("10.0.0.0/", "'10.0.0.0/'"),
        ("fe80::1%eth0", "interface"),
        ("fe80::%eth0/126", "interface"),
        ("0.0.0.0", "0.0.0.0"),
        ("0.0.0.0/24", "0.0.0.0"),
        ("255.255.255.254-255.255.255.255", "255.255.255.255"),
        ("224.0.0.1", "224.0.0.1"),
        ("223.255.255.255-224.0.0.3", "224.0.0.3"),
        ("::", "::"),
        ("ff02::1", "ff02::1"),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_addresses(text)
    assert named in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("10.0.0.0/8", "16,777,214"),
        ("fd00::/64", "18,446,744,073,709,551,615"),
        ("10.0.0.0-10.255.255.255", "16,777,216"),
        ("10.0.0.0-10.12.255.255,11.0.0.0-11.2.255.255", "1,048,576"),
    ],
)
def test_too_many_is_refused_with_the_figure_before_any_is_made(text: str, figure: str) -> None:
    with pytest.raises(UsageError, match=figure):
        parse_addresses(text)


def test_the_most_is_accepted() -> None:
    last = "10.15.66.63"  # 10.0.0.0 + 999,999
    addresses = parse_addresses(f"10.0.0.0-{last}")
    assert len(addresses) == MOST_ADDRESSES
    assert addresses[-1] == last
    with pytest.raises(UsageError, match="1,000,001"):
        parse_addresses("10.0.0.0-10.15.66.64")
