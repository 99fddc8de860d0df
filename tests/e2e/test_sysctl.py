"""`connprobe sysctl` and `hold --sysctl` as a user runs them, in a network namespace of the test's own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from running import Command, Listening, Namespace, Run, check, read_plan

Start = Callable[..., Command]
Sysctl = Callable[..., Run]

GIGABIT_LOWERS = "net.ipv4.tcp_rmem"


@pytest.fixture
def home(namespace: Callable[[str], Namespace]) -> Namespace:
    return namespace("mount -t tmpfs none /etc/sysctl.d; sysctl -qw net.core.somaxconn=4096")


@pytest.fixture
def sysctl(start: Start, home: Namespace) -> Sysctl:
    """sysctl("apply", "gigabit", code=1) -> Run, checked."""

    def run(*arguments: str, code: int = 0, prefix: tuple[str, ...] = ()) -> Run:
        return check(start("sysctl", *arguments, prefix=(*home.prefix, *prefix)).finish(), code)

    return run


def values(home: Namespace) -> dict[str, str]:
    """Everything under net/ that is no counter."""
    script = (
        "find /proc/sys/net -type f -readable -not -path '*/stable_secret' -exec grep -H '' {} + 2>/dev/null"
    )
    lines = home.run("sh", "-c", f"{script} || :").splitlines()
    return dict(line.split(":", 1) for line in lines if "_count:" not in line and "/entropy" not in line)


def now(home: Namespace, key: str) -> str:
    return " ".join(home.run("sysctl", "-n", key).split())


def test_show_flags_what_it_would_lower_apply_leaves_it_and_exact_sets_it(
    sysctl: Sysctl, home: Namespace
) -> None:
    home.run("sysctl", "-qw", "net.ipv4.tcp_rmem=4096 131072 33554432")
    before = values(home)
    shown = sysctl("show", "gigabit").stdout
    line = next(line for line in shown.splitlines() if line.split()[:1] == [GIGABIT_LOWERS])
    assert line.split("  ")[-1].strip() == "lowers"

    said = sysctl("apply", "gigabit").stdout
    assert f"{GIGABIT_LOWERS}: stays 4096 131072 33554432: the profile would lower it to 4096 87380" in said
    assert now(home, GIGABIT_LOWERS) == "4096 131072 33554432"
    assert now(home, "net.core.somaxconn") == "16384"
    assert sysctl("check", "gigabit", "--exact", code=4).says("net.ipv4.tcp_rmem")

    sysctl("apply", "gigabit", "--exact")
    assert now(home, GIGABIT_LOWERS) == "4096 87380 16777216"
    for _ in range(2):
        assert "reverted: gigabit" in sysctl("revert").stdout
    assert values(home) == before
    assert "nothing to revert" in sysctl("revert").stdout


def test_dry_run_writes_nothing(sysctl: Sysctl, home: Namespace) -> None:
    before = values(home)
    said = sysctl("apply", "low-memory", "--exact", "--dry-run").stdout
    assert "3 keys would be written; nothing was touched" in said
    assert values(home) == before
    assert "nothing is applied" in sysctl("status").stdout


def test_status_tells_what_is_applied_and_what_drifted(sysctl: Sysctl, home: Namespace) -> None:
    sysctl("apply", "low-memory", "--exact")
    sysctl("apply", "gigabit")
    home.run("sysctl", "-qw", "net.core.somaxconn=31337")
    said = sysctl("status").stdout
    assert said.index("gigabit (id 2, applied 20") < said.index("low-memory (id 1, applied 20")
    drifted = [line for line in said.splitlines() if line.endswith("changed since")]
    assert len(drifted) == 1
    assert drifted[0].split()[:4] == ["net.core.somaxconn", "4096", "16384", "31337"]
    assert "31337, not the 16384" in sysctl("revert", code=1).stdout
    assert now(home, "net.core.somaxconn") == "31337"
    sysctl("revert", "--force", "--all")
    assert now(home, "net.core.somaxconn") == "4096"


def test_check_is_for_scripts(sysctl: Sysctl) -> None:
    missed = json.loads(sysctl("check", "gigabit", "--json", code=4).stdout)
    assert (missed["ok"], missed["profile"]) == (False, "gigabit")
    somaxconn = next(key for key in missed["keys"] if key["key"] == "net.core.somaxconn")
    assert (somaxconn["now"], somaxconn["wanted"], somaxconn["effect"], somaxconn["ok"]) == (
        "4096",
        "16384",
        "raises",
        False,
    )
    memory = next(key for key in missed["keys"] if key["key"] == "net.ipv4.tcp_mem")
    assert (memory["now"], memory["effect"], memory["ok"]) == (None, "missing", True)


def test_a_plan_is_a_profile_that_apply_takes(sysctl: Sysctl, home: Namespace, start: Start) -> None:
    home.run("sysctl", "-qw", "net.core.somaxconn=100")
    home.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40019")
    home.run("ip", "link", "add", "probe0", "type", "veth", "peer", "name", "peer0")
    home.run("ip", "address", "add", "10.9.0.1/24", "dev", "probe0")
    home.run("ip", "link", "set", "probe0", "up")
    plan = sysctl("plan", "--count", "211", "--target", "10.9.0.2:80").stdout
    assert "# 211 connections from 1 source address = 211 each; there are 20\n" in plan
    assert "\nnet.ipv4.ip_local_port_range = 40000 65535\n" in plan
    command = [*home.prefix, sys.executable, "-m", "connprobe", "sysctl", "apply", "-"]
    done = subprocess.run(command, input=plan, capture_output=True, text=True, check=True)
    assert "stdin: 1 key written, as id 1" in done.stdout
    again = sysctl("plan", "--count", "211", "--target", "10.9.0.2:80").stdout
    assert "# net.ipv4.ip_local_port_range: enough" in again
    sysctl("revert")
    assert now(home, "net.ipv4.ip_local_port_range") == "40000 40019"


def test_persist_writes_a_file_that_revert_removes(sysctl: Sysctl, home: Namespace) -> None:
    file = "/etc/sysctl.d/90-connprobe-gigabit.conf"
    said = sysctl("apply", "gigabit", "--persist").stdout
    assert f"{file} written: these values hold for the next boots too" in said
    assert home.run("stat", "-c", "%a %U", file) == "644 root\n"
    assert "net.core.somaxconn = 16384" in home.run("cat", file)
    assert file in sysctl("status").stdout
    assert f"restored: {file}" in sysctl("revert").stdout
    assert home.run("ls", "/etc/sysctl.d") == ""


def test_a_persisted_file_does_not_follow_a_planted_link(sysctl: Sysctl, home: Namespace) -> None:
    before = values(home)
    home.run("sh", "-c", "echo precious >/etc/sysctl.d/victim")
    home.run("ln", "-s", "victim", "/etc/sysctl.d/90-connprobe-gigabit.conf")
    assert "is there already" in sysctl("apply", "gigabit", "--persist", code=1).stderr
    assert home.run("cat", "/etc/sysctl.d/victim") == "precious\n"
    assert values(home) == before


@pytest.fixture
def odd_files(tmp_path: Path) -> Path:
    (tmp_path / "mistake.conf").write_text("# fine\nnet.core.somaxconn = many\n")
    (tmp_path / "binary.conf").write_bytes(os.urandom(64).replace(b"\n", b"") + b"\0\n")
    (tmp_path / "huge.conf").write_bytes(b"# x\n" * 300_000)
    (tmp_path / "directory.conf").mkdir()
    os.mkfifo(tmp_path / "fifo.conf")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "code", "complaint"),
    [
        ("mistake.conf", 1, "mistake.conf, line 2: net.core.somaxconn = 'many': a number expected"),
        ("binary.conf", 1, "binary.conf, line 1: "),
        ("huge.conf", 1, "is larger than"),
        ("directory.conf", 1, "Is a directory"),
        ("fifo.conf", 1, "not a regular file"),
        ("missing.conf", 2, "there is no file"),
        ("/dev/zero", 1, "not a regular file"),
    ],
)
def test_a_file_that_is_no_profile_is_an_error_of_one_line(
    start: Start, odd_files: Path, name: str, code: int, complaint: str
) -> None:
    said = check(start("sysctl", "apply", str(odd_files / name), "--dry-run").finish(), code).stderr
    assert complaint in said
    assert len(said.splitlines()) <= 2


def test_an_unknown_name_lists_the_known_ones(sysctl: Sysctl) -> None:
    said = sysctl("apply", "gigabyte", code=2).stderr
    assert "there is no profile 'gigabyte'" in said
    assert "gigabit, low-memory, many-connections" in said


def test_unprivileged_everything_but_writing_works(
    start: Start, nobody: tuple[tuple[str, ...], Path], tmp_path: Path
) -> None:
    prefix, directory = nobody
    before = Path("/proc/sys/net/core/somaxconn").read_text()

    def run(*arguments: str, code: int = 0) -> Run:
        return check(start("sysctl", *arguments, prefix=prefix).finish(), code)

    assert "gigabit" in run("list").stdout
    assert "net.core.somaxconn" in run("show", "gigabit").stdout
    assert run("plan", "--count", "1009").stdout.startswith("# What `connprobe hold --count 1009`")
    assert run("status").returncode == 0
    profile = directory / "more.conf"
    profile.write_text(f"net.core.somaxconn = {int(before) + 1}\n")
    profile.chmod(0o644)
    assert "missed" in run("check", str(profile), code=4).stdout
    assert "would be written" in run("apply", str(profile), "--dry-run").stdout
    refused = run("apply", str(profile), code=1).stderr
    assert "net.core.somaxconn cannot be written by this user: it takes root" in refused
    assert "sudo connprobe sysctl apply" in refused
    assert "nothing to revert" in run("revert").stdout
    assert Path("/proc/sys/net/core/somaxconn").read_text() == before


# hold --sysctl

PORTS = "net.ipv4.ip_local_port_range"
FEW = "40000 40019"
NARROW = f"sysctl -qw {PORTS}='{FEW}'"
WANTED = ("--count", "47", "--protocol", "tcp", "--sources", "127.0.0.2", "--for", "1s")
Serves = Callable[..., Listening]


def test_auto_makes_room_for_a_plan_that_would_be_refused(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace]
) -> None:
    home = namespace(NARROW)
    target = ("--target", serve("--protocol", "tcp", prefix=home.prefix).target, *WANTED)
    refused = check(start("hold", *target, prefix=home.prefix).finish(), 3)
    assert refused.says("room for 20 connections")
    assert refused.says("--sysctl auto")
    dry = check(start("hold", *target, "--sysctl", "auto", "--dry-run", prefix=home.prefix).finish(), 0)
    assert dry.says(f"sysctl {PORTS} {FEW} -> 40000 65535, put back at the end")
    assert now(home, PORTS) == FEW
    command = start("hold", *target[:-1], "1h", "--sysctl", "auto", prefix=home.prefix)
    command.sampled("hold")
    assert now(home, PORTS) == "40000 65535"
    command.interrupt()
    run = check(command.finish(), 130)
    assert run.record.held == 47
    assert [(it.key, it.before, it.after) for it in run.record.plan.sysctls] == [
        ("net/ipv4/ip_local_port_range", FEW, "40000 65535")
    ]
    assert now(home, PORTS) == FEW
    assert check(start("hold", *target, "--sysctl", "auto", prefix=home.prefix).finish(), 0).record.held == 47
    assert now(home, PORTS) == FEW
    assert home.run("ls", "/run/connprobe") == "sysctl.lock\n"


def test_limit_raises_them_before_its_server_listens(start: Start, home: Namespace) -> None:
    """And so the server's accept queue is longer."""
    raised = (
        "--sysctl",
        "gigabit",
        "--server",
        "python-asyncio",
        "--count",
        "23",
        "--steps",
        "2",
        "--for",
        "0s",
    )
    run = check(start("limit", *raised, prefix=home.prefix).finish(), 0)
    assert [each.key for each in run.record.plan.sysctls if each.key.endswith("somaxconn")]
    (listener,) = run.record.listeners
    assert listener.capacity == 16384 + 1
    assert now(home, "net.core.somaxconn") == "4096"
    assert home.run("ls", "/run/connprobe") == "sysctl.lock\n"


def test_load_raises_them_for_the_run(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace]
) -> None:
    home = namespace(NARROW)
    target = serve("--protocol", "ws", "--mode", "echo", prefix=home.prefix).target
    asked = ("--target", target, "--sources", "127.0.0.2", "--concurrency", "47")
    refused = check(start("load", *asked, "--count", "97", prefix=home.prefix).finish(), 3)
    assert refused.says("room for 20 connections")
    command = start("load", *asked, "--count", "1000003", "--sysctl", "auto", prefix=home.prefix)
    command.sampled("load")
    assert now(home, PORTS) == "40000 65535"
    command.interrupt()
    run = check(command.finish(), 130)
    assert run.record.load is not None
    assert run.record.load.visited > 47
    assert now(home, PORTS) == FEW


@pytest.mark.parametrize("way", ["restore", "revert", "hold"])
def test_after_a_kill_the_next_command_puts_back(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace], way: str
) -> None:
    home = namespace(NARROW)
    target = ("--target", serve("--protocol", "tcp", prefix=home.prefix).target, *WANTED)
    command = start("hold", *target[:-1], "1h", "--sysctl", "auto", prefix=home.prefix)
    command.sampled("hold")
    busy = check(start("sysctl", "apply", "gigabit", prefix=home.prefix).finish(), 1)
    assert busy.says(f"connprobe hold --sysctl (pid {command.pid}) has the lock on sysctl")
    command.process.send_signal(signal.SIGKILL)
    command.finish()
    assert now(home, PORTS) == "40000 65535"
    status = check(start("sysctl", "status", prefix=home.prefix).finish(), 0)
    assert status.says("which was killed")
    again = {
        "restore": ("restore",),
        "revert": ("sysctl", "revert"),
        "hold": ("hold", *target, "--count", "11"),
    }[way]
    done = check(start(*again, prefix=home.prefix).finish(), 0)
    assert done.says(f"restored: {PORTS} = {FEW}")
    assert now(home, PORTS) == FEW


def test_profiles_of_a_run_never_lower_and_end_with_it(
    start: Start, serve: Serves, namespace: Callable[[str], Namespace]
) -> None:
    home = namespace(f"{NARROW}; sysctl -qw net.ipv4.tcp_rmem='4096 131072 33554432'")
    before = values(home)
    options = ("--sysctl", "gigabit", "--sysctl", "auto", "--sysctl", "low-memory")
    target = ("--target", serve("--protocol", "tcp", prefix=home.prefix).target, *WANTED)
    run = check(start("hold", *target, *options, prefix=home.prefix).finish(), 0)
    assert {it.key for it in read_plan(run).sysctls} >= {"net/core/somaxconn", "net/ipv4/ip_local_port_range"}
    assert "net/ipv4/tcp_rmem" not in {it.key for it in read_plan(run).sysctls}
    assert any("gigabit: net.ipv4.tcp_rmem: stays" in note for note in read_plan(run).notes)
    assert values(home) == before


def test_an_error_in_the_middle_of_a_run_puts_back(
    start: Start, namespace: Callable[[str], Namespace], tmp_path: Path
) -> None:
    home = namespace(NARROW)
    before = values(home)
    (tmp_path / "bad.conf").write_text(
        "net.core.somaxconn = 70001\nnet.ipv4.tcp_max_syn_backlog = 99999999999\n"
    )
    options = ("--count", "11", "--for", "1s", "--sysctl", str(tmp_path / "bad.conf"))
    failed = check(start("hold", *options, prefix=home.prefix).finish(), 1)
    assert failed.says("net.ipv4.tcp_max_syn_backlog = 99999999999 was refused: Invalid argument")
    assert values(home) == before


def test_without_permission_the_run_is_refused(start: Start, nobody: tuple[tuple[str, ...], Path]) -> None:
    prefix, directory = nobody
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    (directory / "more.conf").write_text(f"net.core.somaxconn = {somaxconn + 1}\n")
    (directory / "more.conf").chmod(0o644)
    options = ("--count", "11", "--sysctl", str(directory / "more.conf"))
    refused = check(start("hold", *options, prefix=prefix, results=directory / "results").finish(), 3)
    assert refused.says("writing the sysctl net.core.somaxconn: have no permission")
