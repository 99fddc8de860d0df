"""Reading profiles, held against the two programs that read the same files."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from connprobe.data import data_dir
from connprobe.errors import RunFailed
from connprobe.plan.sysctl.file import Assignment, expand, parse_profile, path_of
from connprobe.plan.sysctl.keys import dotted
from connprobe.system.sysctl import Tree
from netns import network_namespace

SYSCTL = shutil.which("sysctl") or shutil.which("sysctl", path="/usr/sbin:/sbin")
SYSTEMD = next((path for path in ("/usr/lib/systemd/systemd-sysctl",) if Path(path).exists()), None)


def read(text: str) -> tuple[Assignment, ...]:
    return parse_profile("test", "test.conf", text.encode()).assignments


def ours(text: str) -> dict[str, str]:
    """What we would set, of the keys that this kernel has and lets somebody write."""
    tree = Tree()
    found = expand(parse_profile("test", "test.conf", text.encode()), tree.matching)
    return {
        dotted(each.key): each.value
        for each in found
        if (reading := tree.read(each.key)).value is not None and reading.writable == "yes"
    }


def procps(text: str) -> tuple[dict[str, str], str]:
    """What `sysctl --dry-run -p` would set, and its complaints."""
    if (
        SYSCTL is None
        or "--dry-run" not in subprocess.run([SYSCTL, "-h"], capture_output=True, text=True).stdout
    ):
        pytest.skip("no sysctl with --dry-run: apt-get install procps (4.0 or newer)")
    with tempfile.NamedTemporaryFile(suffix=".conf") as file:
        file.write(text.encode())
        file.flush()
        done = subprocess.run(
            [SYSCTL, "--dry-run", "-p", file.name], capture_output=True, text=True, check=False
        )
    lines = (line.partition(" = ") for line in done.stdout.split("\n") if line)
    return {key: value for key, _, value in lines}, done.stderr


def systemd(text: str) -> tuple[dict[str, str], str]:
    """What systemd-sysctl sets, by its own log, and its complaints. It does set it."""
    if SYSTEMD is None:
        pytest.skip("no systemd-sysctl: apt-get install systemd")
    with tempfile.NamedTemporaryFile(suffix=".conf") as file:
        file.write(text.encode())
        file.flush()
        log = subprocess.run(
            [SYSTEMD, file.name],
            env={
                **os.environ,
                "SYSTEMD_LOG_LEVEL": "debug",
                "SYSTEMD_LOG_TARGET": "console",
                "SYSTEMD_LOG_COLOR": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        ).stderr
    found = re.findall(r"^Setting '/proc/sys/(.*)' to '(.*)'$", log, re.MULTILINE)
    return {dotted(key): value for key, value in found if Path("/proc/sys", key).is_file()}, log


# Keys of a network namespace that change nothing for a namespace without traffic.
KEYS = [
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/lo/rp_filter",
    "net/ipv4/conf/p.1/rp_filter",
    "net/ipv4/conf/p.1/log_martians",
    "net/ipv4/conf/lo/log_martians",
    "net/ipv4/tcp_fin_timeout",
    "net/ipv4/tcp_rmem",
    "net/ipv4/nosuchkey",
]
GLOBS = [
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/p.?/rp_filter",
    "net/ipv4/conf/[lp]*/log_martians",
    "net/ipv4/conf/[!l]*/rp_filter",
    "net/*/nosuch*",
]
NUMBERS = {"net/ipv4/tcp_rmem": ("4096 131072 6291456", "4096\t87380  6291456")}
SPACE = st.sampled_from(["", " ", "\t", "  "])


@st.composite
def assignments(draw: st.DrawFn) -> str:
    path = draw(st.sampled_from(KEYS + GLOBS))
    key = draw(st.sampled_from([path, dotted(path)]))
    value = draw(st.sampled_from(NUMBERS.get(path, ("0", "1", "2"))))
    dash = draw(st.sampled_from(["", "-"]))
    return "".join((draw(SPACE), dash, key, draw(SPACE), "=", draw(SPACE), value, draw(SPACE)))


EXCLUSIONS = st.sampled_from(KEYS).flatmap(lambda key: st.sampled_from([f"-{key}", f" -{dotted(key)} "]))
COMMENTS = st.sampled_from(["", "# net.ipv4.tcp_rmem = 1", ";x", "  # indented", "\t"])
FILES = st.lists(assignments() | assignments() | EXCLUSIONS | COMMENTS, max_size=8).filter(
    lambda lines: not _key_set_and_excluded(lines) and not _pattern_again(lines)
)


def _key_set_and_excluded(lines: list[str]) -> bool:
    """The two programs disagree on it, so we refuse it: see the test of mistakes."""
    keys = {path_of(line.partition("=")[0].strip(" \t-")) for line in lines if "=" in line}
    return any(path_of(line.strip(" \t-")) in keys for line in lines if "=" not in line)


def _pattern_again(lines: list[str]) -> bool:
    """Likewise, with another pattern in between."""
    keys = [path_of(line.partition("=")[0].strip(" \t-")) for line in lines if "=" in line]
    patterns = [key for key, _ in groupby(key for key in keys if set(key) & set("*?["))]
    return len(set(patterns)) < len(patterns)


ENDS = st.sampled_from(["\n", "\r\n"])


@pytest.fixture(scope="module")
def namespace() -> Iterator[None]:
    """With an interface whose name has a dot."""
    with network_namespace():
        subprocess.run(["ip", "link", "add", "p.1", "type", "veth", "peer", "name", "p.2"], check=True)
        yield


many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
some = settings(many, max_examples=50)


@many
@given(FILES, ENDS)
@pytest.mark.usefixtures("namespace")
def test_procps_would_set_the_same(lines: list[str], end: str) -> None:
    text = end.join(lines) + end
    found, complaints = procps(text)
    assert ours(text) == found
    assert "syntax" not in complaints


@some
@given(FILES, ENDS)
@pytest.mark.usefixtures("namespace")
def test_systemd_sets_the_same(lines: list[str], end: str) -> None:
    text = end.join(lines) + end
    found, complaints = systemd(text)
    assert ours(text) == found
    assert "not an assignment" not in complaints


@many
@given(st.text(st.sampled_from("ab=-#; \t./*\n"), max_size=24))
@example("*/.*=")
def test_what_procps_does_not_understand_is_refused(text: str) -> None:
    _, complaints = procps(text)
    if "invalid syntax" in complaints or "not under" in complaints:
        with pytest.raises(RunFailed, match="line"):
            read(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_line(data: bytes) -> None:
    message = "any.conf, line 0: "
    try:
        parse_profile("any", "any.conf", data)
    except RunFailed as failure:
        message = failure.message
    assert re.match(r"any\.conf, line \d+: ", message)


@pytest.mark.parametrize("name", ["gigabit", "many-connections", "low-memory"])
@pytest.mark.usefixtures("namespace")
def test_shipped_profiles_work_with_both_programs(name: str) -> None:
    text = (data_dir("sysctl.d") / f"{name}.conf").read_text()
    found, _ = procps(text)
    assert found
    assert ours(text) == found


def test_the_gigabit_profile_is_exactly_the_published_one() -> None:
    text = (data_dir("sysctl.d") / "gigabit.conf").read_text()
    assert [(dotted(each.key), each.value) for each in read(text)] == [
        ("net.core.somaxconn", "16384"),
        ("net.core.rmem_max", "16777216"),
        ("net.core.wmem_max", "16777216"),
        ("net.ipv4.tcp_rmem", "4096 87380 16777216"),
        ("net.ipv4.tcp_wmem", "4096 65536 16777216"),
        ("net.ipv4.tcp_syncookies", "1"),
        ("net.ipv4.tcp_mem", "50576 64768 98152"),
        ("net.core.netdev_max_backlog", "2500"),
    ]


@pytest.mark.parametrize("name", ["gigabit", "many-connections", "low-memory"])
def test_shipped_profiles_open_with_where_they_are_from_and_what_for(name: str) -> None:
    text = (data_dir("sysctl.d") / f"{name}.conf").read_text()
    head = text[: text.index("\n\n")]
    assert "# From: " in head
    assert re.search(r"^# For: ", head, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("net.core.somaxconn 5", "'net.core.somaxconn 5' is no assignment"),
        ("= 5", "the key is missing"),
        ("net.core.somaxconn = 5 # five", "net.core.somaxconn = '5 # five': a number expected (a comment"),
        ("net.core.somaxconn = 010", "net.core.somaxconn = '010': a number expected"),
        ("net.core.somaxconn =", "net.core.somaxconn = '': a number expected"),
        ("net.ipv4.tcp_rmem = 4096 87380", "net.ipv4.tcp_rmem = '4096 87380': 3 numbers expected"),
        ("- net.core.somaxconn = 5", "a space between the '-' and 'net.core.somaxconn'"),
        ("net/../kernel/hostname = x", "is no key below /proc/sys"),
        ("/etc/passwd = x", "is no key below /proc/sys"),
        ("net.core..somaxconn = 5", "is no key below /proc/sys"),
        ("net.core.some conn = 5", "contains spaces"),
        ("net.core.[^x]* = 5", "patterns know"),
        ("-net.core.*", "excludes a pattern"),
        ("x\0y = 1", "a NUL byte"),
    ],
)
def test_a_mistake_is_named_by_line_and_key(line: str, complaint: str) -> None:
    with pytest.raises(RunFailed) as caught:
        read(f"# a comment\n\n{line}\n")
    assert caught.value.message.startswith("test.conf, line 3: ")
    assert complaint in caught.value.message


def test_a_pattern_that_comes_again_after_another_is_refused() -> None:
    """systemd would set p.1 to 1, and sysctl(8) to 2."""
    again = "net/ipv4/conf/*/rp_filter = {}\n"
    lines = again.format(0) + "net/ipv4/conf/p.?/rp_filter = 1\n" + again.format(2)
    with pytest.raises(RunFailed, match=r"line 3: net\.ipv4\.conf\.\*\.rp_filter stands in line 1 too"):
        read(lines)
    assert len(read(again.format(0) + again.format(2))) == 2


def test_a_key_both_set_and_excluded_is_refused() -> None:
    with pytest.raises(RunFailed, match=r"line 1: -net\.core\.somaxconn excludes what line 2 sets"):
        read("-net.core.somaxconn\nnet/core/somaxconn = 5\n")


def test_what_is_no_utf8_is_no_text() -> None:
    with pytest.raises(RunFailed, match="line 2: not UTF-8"):
        parse_profile("x", "x.conf", b"# fine\n\xff\xfe\n")


@pytest.mark.parametrize("path", KEYS + GLOBS)
def test_both_forms_of_a_key_are_one(path: str) -> None:
    assert path_of(path) == path
    assert path_of(dotted(path)) == path
