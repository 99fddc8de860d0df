import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.system import facts
from connprobe.system.facts import (
    meminfo_bytes,
    read_facts,
    reserved_inside,
    threads_in_use,
    threads_of,
    tracked_connections,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("\n", 0),
        ("40000\n", 1),
        ("1024\n", 0),
        ("32768,60999\n", 2),
        ("32767,61000\n", 0),
        ("8080,40000-40022\n", 23),
        ("60990-65535\n", 10),
        ("1-65535\n", 28232),
        ("40000-40004,40002-40006\n", 7),
    ],
)
def test_reserved_ports_inside_the_range(text: str, expected: int) -> None:
    assert reserved_inside(text, 32768, 60999) == expected


def test_meminfo() -> None:
    text = (
        "MemTotal:       24684096 kB\nMemFree: 1 kB\nMemAvailable:   23613448 kB\nHugePages_Total:       0\n"
    )
    assert meminfo_bytes(text, "MemTotal") == 24684096 * 1024
    assert meminfo_bytes(text, "MemAvailable") == 23613448 * 1024
    with pytest.raises(RunFailed, match="HugePages_Total"):
        meminfo_bytes(text, "HugePages_Total")
    with pytest.raises(RunFailed, match="Available"):
        meminfo_bytes(text, "Available")


def test_threads_in_use() -> None:
    assert threads_in_use("0.00 0.07 0.07 4/97 7073\n") == 97
    for odd in ("", "0.00 0.07 0.07", "0.00 0.07 0.07 97 7073"):
        with pytest.raises(RunFailed, match="loadavg"):
            threads_in_use(odd)


def test_this_machine() -> None:
    found = read_facts()
    assert found.kernel == os.uname().release
    assert found.uid == os.geteuid()
    assert (found.nofile_soft, found.nofile_hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert found.memory_total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < found.memory_available_bytes < found.memory_total_bytes
    assert 1 <= found.port_low < found.port_high <= 65535
    assert 0 < found.files_in_use < found.file_max
    assert found.somaxconn == int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))
    assert found.processes_in_use > 1
    assert ("lo", "127.0.0.1") in {(each.interface, each.address) for each in found.addresses}
    if os.getuid() == 0:
        assert found.process_limit is None
        assert "CAP_CHOWN" in found.capabilities


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="nosuch"):
        facts._numbers(str(tmp_path / "nosuch"), 1)
    odd = tmp_path / "odd"
    odd.write_text("32768\n", encoding="ascii")
    with pytest.raises(RunFailed, match="2 numbers"):
        facts._numbers(str(odd), 2)
    assert facts._optional_number(str(tmp_path / "nosuch")) is None
    assert facts._optional_number(str(odd)) == 32768


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_a_namespace_has_its_own_facts(ip: Callable[[str], str]) -> None:
    ipv4 = Path("/proc/sys/net/ipv4")
    (ipv4 / "ip_local_port_range").write_text("40000 40999", encoding="ascii")
    (ipv4 / "ip_local_reserved_ports").write_text("40000-40006,50000", encoding="ascii")
    ip("address add 10.8.0.1/24 dev probe0")
    found = read_facts()
    assert (found.port_low, found.port_high, found.reserved_ports) == (40000, 40999, 7)
    assert "10.8.0.1" in {each.address for each in found.addresses}


@pytest.mark.root
@pytest.mark.usefixtures("namespace")
def test_connections_count_as_tracked_only_where_a_rule_tracks_them() -> None:
    if shutil.which("nft") is None:
        pytest.skip("needs nft: apt-get install nftables")
    assert tracked_connections() is None
    rule = "table inet probe { chain in { type filter hook input priority 0; ct state new counter; }; }"
    loaded = subprocess.run(["nft", rule], capture_output=True, text=True)
    if loaded.returncode:
        pytest.skip(
            f"this kernel takes no nft ct rule: {loaded.stderr.strip()}; load nf_tables and nf_conntrack"
        )
    tracked = tracked_connections()
    assert tracked is not None
    assert tracked[1] >= 1


RAISE = """
import resource, sys
from connprobe.system.facts import raise_nofile
wanted = int(sys.argv[1]) or None
resource.setrlimit(resource.RLIMIT_NOFILE, (1009, int(sys.argv[2])))
assert raise_nofile(wanted) == resource.getrlimit(resource.RLIMIT_NOFILE)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def raised(wanted: int, hard: int) -> tuple[int, int]:
    command = [sys.executable, "-c", RAISE, str(wanted), str(hard)]
    soft, now = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(soft), int(now)


def test_the_soft_limit_goes_up_to_the_hard_one() -> None:
    assert raised(0, 4001) == (4001, 4001)
    assert raised(2003, 4001) == (4001, 4001)


def test_the_hard_limit_goes_up_where_it_may() -> None:
    may = "CAP_SYS_RESOURCE" in read_facts().capabilities
    nr_open = read_facts().nr_open
    assert raised(5003, 4001) == ((5003, 5003) if may else (4001, 4001))
    assert raised(nr_open + 1, 4001) == ((nr_open, nr_open) if may else (4001, 4001))


def test_the_threads_of_a_user_are_its_own() -> None:
    """RLIMIT_NPROC counts no other user's: 23 processes of one that has no other."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user: sudo .venv/bin/pytest")
    uid = 3_000_000_000
    before = threads_of(uid)
    children = [subprocess.Popen(["sleep", "60"], user=uid) for _ in range(23)]
    try:
        assert threads_of(uid) - before == 23
        assert threads_of(0) >= 1
    finally:
        for each in children:
            each.kill()
            each.wait()
