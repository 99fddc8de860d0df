import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connprobe.errors import RunFailed, UsageError
from connprobe.store.journal import stale_journals
from connprobe.system.addresses import (
    Entry,
    add_addresses,
    local_addresses,
    remove_addresses,
    source_for,
)
from connprobe.system.rtnetlink import rtnetlink
from running import eventually

Ip = Callable[[str], str]

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespace")]

SEVEN = [f"10.9.0.{last}" for last in range(1, 8)]
SIX = [f"fd09::{last:x}" for last in range(1, 7)]


def added(*addresses: str) -> Entry:
    """Add to probe0, and give the last undo entry recorded."""
    entries: list[Entry] = []
    assert add_addresses("probe0", addresses, entries.append) == list(addresses)
    return entries[-1]


def stamp(address: str) -> int:
    with rtnetlink() as netlink:
        (found,) = (each.created_cs for each in netlink.addresses() if each.address == address)
    return found


def without_net_admin(script: str, argument: str) -> str:
    capability = ("--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    command = ["setpriv", *capability, sys.executable, "-c", script, argument]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("addresses", [SEVEN, SIX, [*SEVEN, *SIX]], ids=["IPv4", "IPv6", "both"])
def test_added_addresses_work_at_once_and_go_without_a_trace(addresses: list[str], ip: Ip) -> None:
    ip("address add 10.8.0.1/24 dev probe0")
    before = ip("-o address"), ip("route show table all"), ip("-6 route show table all")
    entry = added(*addresses)
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, 0), family=family) as server:
            socket.create_connection(server.getsockname()[:2], timeout=5).close()
    prefixes = {each.prefix for each in local_addresses() if each.address in addresses}
    assert prefixes <= {32, 128}
    undone = remove_addresses(entry)
    assert sorted(undone.removed) == sorted(addresses)
    assert (undone.kept, undone.pending) == ((), ())
    assert (ip("-o address"), ip("route show table all"), ip("-6 route show table all")) == before


def test_ipv6_is_local_when_added_though_the_kernel_is_busy() -> None:
    """The kernel's work queue competes for the rtnl lock with whoever changes interfaces, anywhere."""
    churn = "while :; do ip link add a0 type veth peer name b0 && ip link set a0 up && ip link del a0; done"
    busy = [subprocess.Popen(["unshare", "-n", "sh", "-c", f"echo; {churn}"], stdout=-1) for _ in range(2)]
    try:
        for each in busy:
            assert each.stdout is not None
            each.stdout.readline()
        for last in range(1, 102):
            added(f"fd09::{last:x}")
            assert source_for(f"fd09::{last:x}").is_local
    finally:
        for each in busy:
            each.terminate()
            each.communicate()


def test_what_was_there_before_is_neither_added_nor_removed(ip: Ip) -> None:
    ip("address add 10.9.0.3/24 dev probe0")
    ip("address add 10.9.0.5/32 dev lo")
    ip("address add fd09::3/64 dev peer0 nodad")
    before = ip("-o address")
    entries: list[Entry] = []
    wanted = [*SEVEN, "FD09:0::3", "fd09::5", "10.9.0.1", "127.0.0.9"]
    expected = ["10.9.0.1", "10.9.0.2", "10.9.0.4", "10.9.0.6", "10.9.0.7", "fd09::5"]
    assert add_addresses("probe0", wanted, entries.append) == expected
    for entry in entries:
        remove_addresses(entry)
    assert ip("-o address") == before


def test_the_undo_is_recorded_before_the_deed(ip: Ip) -> None:
    seen: list[tuple[bool, Entry]] = []
    add_addresses(
        "probe0", SEVEN, lambda entry: seen.append(("10.9.0.1/32" in ip("-o address"), dict(entry)))
    )
    (there_first, before), (there_later, after) = seen
    assert (there_first, there_later) == (False, True)
    assert before["addresses"] == after["addresses"] == SEVEN
    assert before["id"] == after["id"]
    assert json.loads(json.dumps(after)) == after
    assert "created_cs" not in before
    assert after["created_cs"] == [stamp(address) for address in SEVEN]


def test_nothing_is_added_when_the_undo_cannot_be_recorded(ip: Ip) -> None:
    before = ip("-o address")

    def full(entry: Entry) -> None:
        raise RunFailed("no space")

    with pytest.raises(RunFailed, match="no space"):
        add_addresses("probe0", SEVEN, full)
    assert ip("-o address") == before


@pytest.mark.parametrize("address", ["10.9.0.4", "fd09::4"])
def test_somebody_elses_address_that_looks_the_same_is_kept(address: str, ip: Ip) -> None:
    entry = added("10.9.0.3", address)
    ours = stamp(address)
    for _ in range(1000):  # the stamp advances with the tick
        ip(f"address del {address}/{128 if ':' in address else 32} dev probe0")
        ip(f"address add {address}/{128 if ':' in address else 32} dev probe0")
        if stamp(address) != ours:
            break
    undone = remove_addresses(entry)
    assert undone.removed == ("10.9.0.3",)
    assert undone.pending == ()
    (sentence,) = undone.kept
    assert sentence.startswith(f"{address} on probe0: ")
    assert address in ip("-o address")


def test_moved_to_another_interface_it_is_somebody_elses(ip: Ip) -> None:
    entry = added("10.9.0.4")
    ip("address del 10.9.0.4/32 dev probe0")
    ip("address add 10.9.0.4/32 dev lo")
    assert remove_addresses(entry).removed == ()
    assert "10.9.0.4/32" in ip("-o address")


@pytest.mark.parametrize(("seconds_ago", "removed"), [(0, SEVEN), (130, []), (-130, [])])
def test_without_stamps_only_what_was_made_right_after_the_entry_is_removed(
    seconds_ago: int, removed: list[str]
) -> None:
    entry = added(*SEVEN)
    del entry["created_cs"]
    entry["since_cs"] = int(str(entry["since_cs"])) - seconds_ago * 100
    undone = remove_addresses(entry)
    assert list(undone.removed) == removed
    assert len(undone.kept) == len(SEVEN) - len(removed)


def test_the_stamp_is_in_hundredths_of_the_monotonic_clock() -> None:
    now = [time.monotonic_ns() // 10_000_000]
    added("10.9.0.1", "fd09::1")
    now.append(time.monotonic_ns() // 10_000_000)
    for address in ("10.9.0.1", "fd09::1"):
        assert now[0] - 500 <= stamp(address) <= now[1]


@pytest.mark.parametrize("records", [1, 2, 3, 4])
def test_after_a_kill_the_journal_restores_exactly(records: int, ip: Ip, tmp_path: Path) -> None:
    """1,007 addresses are two entries here, recorded twice each: a kill after any record is another state."""
    ip("address add 10.9.0.77/24 dev probe0")
    ip("address add 10.9.1.1/16 dev peer0")
    ip("address add fd09::77/64 dev probe0 nodad")
    assert eventually(lambda: "local fd09::77" in ip("route show table all")), (
        "its route comes a little later"
    )
    before = ip("-o address"), ip("route show table all")
    script = """
import os, signal, sys
from pathlib import Path
from connprobe.plan.addresses import parse_addresses
from connprobe.store.journal import Journal
from connprobe.system import addresses
addresses._CHUNK = 1000
journal, left = Journal.create("hold", Path(sys.argv[1])), int(sys.argv[2])
def record(entry):
    global left
    journal.record(entry)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
addresses.add_addresses("probe0", parse_addresses("fd09::70-fd09::79,10.9.0.0-10.9.3.231"), record)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(records)], check=False)
    assert killed.returncode == -signal.SIGKILL
    there = len(ip("-o address").splitlines()) - len(before[0].splitlines())
    assert there == [0, 1000, 1007, 1007][records - 1]
    (journal,) = stale_journals(tmp_path)
    report = journal.undo({"address": remove_addresses})
    assert len(report.removed) == there
    assert report.pending == ()
    assert (ip("-o address"), ip("route show table all")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_middle_of_adding(ip: Ip, tmp_path: Path) -> None:
    before = ip("-o address")
    script = """
import sys
from pathlib import Path
from connprobe.plan.addresses import parse_addresses
from connprobe.store.journal import Journal
from connprobe.system.addresses import add_addresses
journal = Journal.create("hold", Path(sys.argv[1]))
add_addresses("probe0", parse_addresses("10.9.0.0/18"), journal.record)
"""
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    try:
        while child.poll() is None and "10.9.0.23/32" not in ip("-o address"):
            pass
    finally:
        child.kill()
        child.wait()
    assert "10.9.0.23/32" in ip("-o address")
    assert "10.9.63.254/32" not in ip("-o address")
    (journal,) = stale_journals(tmp_path)
    assert journal.undo({"address": remove_addresses}).pending == ()
    assert ip("-o address") == before


def test_an_entry_of_another_network_namespace_is_pending(ip: Ip) -> None:
    entry = added("10.9.0.1")
    namespace = Path("/proc/self/ns/net").stat().st_ino
    undone = remove_addresses({**entry, "netns": namespace + 1})
    assert undone.removed == ()
    assert str(namespace + 1) in undone.pending[0]
    assert "10.9.0.1/32" in ip("-o address")


def test_an_interface_that_went_away_leaves_nothing_to_do(ip: Ip) -> None:
    entry = added("10.9.0.1")
    ip("link del probe0")
    assert remove_addresses(entry) == ((), (), ())


def test_an_unknown_interface_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="nosuch0") as caught:
        add_addresses("nosuch0", SEVEN, lambda entry: pytest.fail("recorded"))
    assert {"lo", "probe0", "peer0"} <= set((caught.value.fix or "").replace(",", "").split())


def test_without_the_capability_the_message_names_it(ip: Ip) -> None:
    script = """
import sys
from connprobe.errors import RunFailed
from connprobe.system.addresses import add_addresses
try:
    add_addresses(sys.argv[1], ["10.9.0.1"], lambda entry: None)
except RunFailed as failed:
    print(failed, failed.fix)
"""
    said = without_net_admin(script, "probe0")
    assert "CAP_NET_ADMIN" in said
    assert "sudo ip address add 10.9.0.1/32 dev probe0" in said
    assert "10.9.0.1/32" not in ip("-o address")


def test_what_cannot_be_removed_is_pending() -> None:
    entry = added("10.9.0.1")
    script = """
import json, sys
from connprobe.system.addresses import remove_addresses
print(json.dumps(remove_addresses(json.loads(sys.argv[1]))))
"""
    removed, kept, (sentence,) = json.loads(without_net_admin(script, json.dumps(entry)))
    assert (removed, kept) == ([], [])
    assert sentence.startswith("10.9.0.1 ")
    assert "CAP_NET_ADMIN" in sentence


def test_ipv6_switched_off_is_told_from_a_missing_capability() -> None:
    Path("/proc/sys/net/ipv6/conf/probe0/disable_ipv6").write_text("1", encoding="ascii")
    with pytest.raises(RunFailed) as caught:
        add_addresses("probe0", SIX, lambda entry: None)
    assert caught.value.fix == "sudo sysctl -w net.ipv6.conf.probe0.disable_ipv6=0"


def test_an_interface_whose_routes_would_go_with_the_last_address_is_refused(ip: Ip) -> None:
    ip("route add 10.7.0.0/24 dev probe0")
    before = ip("-o address"), ip("route")
    with pytest.raises(RunFailed, match="routes") as caught:
        add_addresses("probe0", SEVEN, lambda entry: pytest.fail("recorded"))
    assert caught.value.fix == "sudo ip address add 10.9.0.1/32 dev probe0"
    remove_addresses(added(*SIX))
    assert (ip("-o address"), ip("route")) == before


def test_routes(ip: Ip) -> None:
    ip("address add 10.8.0.1/24 dev probe0")
    ip("address add fd08::1/64 dev probe0 nodad")
    ip("address add fe80::1/64 dev probe0 nodad")
    assert source_for("10.8.0.9") == ("probe0", "10.8.0.1", False)
    assert source_for("fd08::9") == ("probe0", "fd08::1", False)
    assert source_for("10.8.0.1") == ("lo", "10.8.0.1", True)
    assert source_for("127.0.0.23") == ("lo", "127.0.0.1", True)
    assert source_for("::1").is_local
    assert source_for("fe80::9", socket.if_nametoindex("probe0")) == ("probe0", "fe80::1", False)
    with pytest.raises(RunFailed, match=r"no route to 192\.0\.2\.1") as caught:
        source_for("192.0.2.1")
    assert caught.value.fix == "ip route get 192.0.2.1"


def test_local_addresses(ip: Ip) -> None:
    ip("address add 10.8.0.1 peer 10.8.0.2/32 dev probe0")
    ip("address add fd08::1/64 dev peer0 nodad")
    found = {(each.interface, each.address, each.prefix, each.family) for each in local_addresses()}
    assert found == {
        ("lo", "127.0.0.1", 8, "ipv4"),
        ("lo", "::1", 128, "ipv6"),
        ("probe0", "10.8.0.1", 32, "ipv4"),
        ("peer0", "fd08::1", 64, "ipv6"),
    }
