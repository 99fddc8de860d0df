"""Never lowering, key by key and component by component."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.sysctl.changes import Reading, Row, changes, compare, in_bytes, left
from connprobe.plan.sysctl.file import Assignment, path_of
from connprobe.plan.sysctl.keys import KEYS

PAGE = 4096


def row(key: str, now: str | None, wanted: str, *, writable: bool = True, problem: str = "") -> Row:
    reading = Reading(now, "yes" if writable else "no", problem)
    return compare(Assignment(1, path_of(key), wanted), reading)


@pytest.mark.parametrize(
    ("key", "now", "wanted", "effect", "raised"),
    [
        ("net.core.somaxconn", "4096", "16384", "raises", "16384"),
        ("net.core.somaxconn", "65535", "16384", "lowers", "65535"),
        ("net.core.somaxconn", "16384", "16384", "same", "16384"),
        ("net.ipv4.tcp_rmem", "4096\t131072\t6291456", "4096 87380 6291456", "lowers", "4096 131072 6291456"),
        ("net.ipv4.tcp_rmem", "4096\t131072\t6291456", "4096 131072  6291456", "same", "4096 131072 6291456"),
        (
            "net.ipv4.tcp_rmem",
            "4096\t131072\t6291456",
            "4096 87380 16777216",
            "raises and lowers",
            "4096 131072 16777216",
        ),
        ("net.ipv4.ip_local_port_range", "32768\t60999", "1024 65535", "raises", "1024 65535"),
        ("net.ipv4.ip_local_port_range", "1024\t65535", "32768 60999", "lowers", "1024 65535"),
        ("net.ipv4.ip_local_port_range", "10000\t60000", "15000 64000", "raises and lowers", "10000 64000"),
        ("net.ipv4.tcp_fin_timeout", "60", "10", "raises", "10"),
        ("net.ipv4.tcp_fin_timeout", "10", "60", "lowers", "10"),
        ("net.ipv4.tcp_syncookies", "2", "1", "lowers", "2"),
        ("net.ipv4.tcp_syncookies", "0", "1", "raises", "1"),
        ("net.ipv4.tcp_tw_reuse", "2", "1", "raises", "1"),
        ("net.ipv4.tcp_tw_reuse", "1", "2", "lowers", "1"),
        ("net.ipv4.tcp_syncookies", "1", "7", "differs", "1"),
        ("vm.swappiness", "60", "10", "differs", "60"),
        ("fs.inotify.max_user_watches", "8192", "524288", "raises", "524288"),
        ("net.ipv4.tcp_congestion_control", "cubic", "bbr", "differs", "cubic"),
        ("net.ipv4.tcp_congestion_control", "cubic", "cubic", "same", "cubic"),
        ("fs.file-max", "9223372036854775807", "10000000", "lowers", "9223372036854775807"),
    ],
)
def test_effects(key: str, now: str, wanted: str, effect: str, raised: str) -> None:
    found = row(key, now, wanted)
    assert (found.effect, found.raised) == (effect, raised)
    assert found.target(exact=False) == (None if raised == found.now else raised)
    assert found.target(exact=True) == (None if effect == "same" else found.wanted)


@given(st.sampled_from(sorted(KEYS)), st.data())
def test_applying_never_gives_less_and_is_idempotent(key: str, data: st.DataObject) -> None:
    numbers = st.lists(st.integers(0, 1 << 31), min_size=KEYS[key].numbers, max_size=KEYS[key].numbers)
    now, wanted = (" ".join(map(str, data.draw(numbers))) for _ in range(2))
    once = row(key, now, wanted)
    again = row(key, once.raised, wanted)
    assert again.raised == once.raised
    assert not again.gives_less
    assert row(key, once.raised, now).target(exact=False) is None, "something of what there was is lost"


def test_what_is_missing_or_closed_is_neither_written_nor_a_miss() -> None:
    rows = [
        row("net.ipv4.tcp_mem", None, "1 2 3"),
        row("net.ipv4.route.flush", None, "1", problem="it cannot be read: Permission denied"),
        row("net.core.rmem_max", "4096", "9999", writable=False, problem="the kernel has it read-only"),
    ]
    assert changes(rows, exact=True) == ()
    assert [(each.gives_less, each.unequal) for each in rows] == [
        (False, False),
        (False, False),
        (True, True),
    ]
    said = [left(each, True, PAGE) for each in rows]
    assert said == [
        "net.ipv4.tcp_mem: missing on this kernel, or in this network namespace",
        "net.ipv4.route.flush: it cannot be read: Permission denied, so it could not be put back",
        "net.core.rmem_max: not writable, stays 4096: the kernel has it read-only",
    ]


def test_each_key_that_is_left_has_a_line_that_says_why() -> None:
    lowered = left(row("net.ipv4.tcp_mem", "575802 767736 1151604", "50576 64768 98152"), False, PAGE)
    assert lowered is not None
    assert "would lower it to 50576 64768 98152 (207 MB, 265 MB, 402 MB)" in lowered
    assert "stays 575802 767736 1151604 (2.4 GB, 3.1 GB, 4.7 GB)" in lowered
    assert "--exact" in (left(row("vm.swappiness", "60", "10"), False, PAGE) or "")
    mixed = left(row("net.ipv4.tcp_rmem", "1 5 9", "1 4 10"), False, PAGE)
    assert mixed == "net.ipv4.tcp_rmem: raised to 1 5 10, as the profile would lower 1 5 9 in part, by 1 4 10"
    for each in (row("net.core.somaxconn", "1", "2"), row("net.core.somaxconn", "2", "2")):
        assert left(each, False, PAGE) is None


def test_pages_are_those_of_the_machine() -> None:
    assert in_bytes("net/ipv4/tcp_mem", "50576 64768 98152", 65536) == " (3.3 GB, 4.2 GB, 6.4 GB)"
    assert in_bytes("net/ipv4/tcp_rmem", "4096 87380 16777216", 4096) == ""
