import io

from rich.console import Console

from connprobe.model import Capacity
from connprobe.report.doctor import render_doctor

NOFILE = Capacity(
    resource="nofile",
    source="RLIMIT_NOFILE",
    capacity=20_000,
    used=30,
    per_connection=1,
    connections=19_970,
    fix="ulimit -n 1048576",
)
PORTS = Capacity(
    resource="source_ports",
    source="/proc/sys/net/ipv4/ip_local_port_range",
    capacity=28_232,
    used=0,
    per_connection=1,
    connections=28_232,
    fix='sysctl -w net.ipv4.ip_local_port_range="1024 65535" # [bold]\x1b[2J',
)
MEMORY = Capacity(
    resource="memory",
    source="/proc/meminfo",
    capacity=18_300_000_000,
    used=0,
    per_connection=7300,
    connections=2_506_849,
    fix="",
)


def rendered(width: int = 80) -> str:
    file = io.StringIO()
    render_doctor(
        {"to a remote server": [MEMORY, PORTS, NOFILE], "pairs on loopback": [MEMORY, NOFILE], "none": []},
        Console(file=file, width=width, force_terminal=False),
        1_000_000,
        [("CAP_NET_ADMIN", False, "absent", "run as root"), ("IPv6", True, "::1 answers", "not needed")],
    )
    return file.getvalue()


def test_the_smallest_comes_first_and_is_marked() -> None:
    text = rendered()
    assert "to a remote server: 19,970 connections, bound by nofile" in text
    remote = text[: text.index("pairs on loopback")]
    assert remote.index("19,970") < remote.index("28,232") < remote.index("2,506,849")
    assert [line.split()[0] for line in text.splitlines() if line.endswith("binds")] == ["nofile", "nofile"]


def test_memory_is_in_bytes_and_counts_are_not() -> None:
    row = next(line for line in rendered().splitlines() if line.startswith("  memory  "))
    assert row.split() == ["memory", "2,506,849", "18.3", "GB", "0", "B", "7.3", "kB"]


def test_each_fix_stands_once_whole_and_harmless() -> None:
    text = rendered(width=60)
    assert text.count("fix: ulimit -n 1048576") == 1
    assert 'fix: sysctl -w net.ipv4.ip_local_port_range="1024 65535" # [bold]\n' in text
    assert "/proc/sys/net/ipv4/ip_local_port_range" in text
    assert "\x1b" not in text


def test_checks_say_what_is_missing_and_how_to_mend_it() -> None:
    lines = rendered().splitlines()[-3:]
    assert [line.strip() for line in lines] == [
        "missing CAP_NET_ADMIN: absent",
        "fix: run as root",
        "ok      IPv6: ::1 answers",
    ]
