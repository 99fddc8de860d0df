"""Writing /proc/sys of a network namespace, and everything a kernel may do to a value."""

import os
import subprocess
from pathlib import Path

import pytest

from connprobe.errors import RunFailed
from connprobe.model import SysctlChange
from connprobe.plan.sysctl.changes import Reading
from connprobe.system.namespaces import identity
from connprobe.system.sysctl import Entry, Tree, put_back, set_values
from netns import network_namespace

SOMAXCONN = "net/core/somaxconn"
PORTS = "net/ipv4/ip_local_port_range"
RESERVED = "net/ipv4/ip_local_reserved_ports"
TREE = Tree()


def value(key: str) -> str:
    found = TREE.read(key).value
    assert found is not None
    return found


def change(key: str, after: str) -> SysctlChange:
    return SysctlChange(key=key, before=" ".join(value(key).split()), after=after)


def write(*changes: SysctlChange, tree: Tree = TREE) -> tuple[list[str], dict[object, Entry]]:
    """What the kernel said, and the entries as a journal would give them."""
    entries: dict[object, Entry] = {}
    said = set_values(tree, changes, lambda entry: entries.update({entry["id"]: entry}), lambda: False)
    return said, entries


def only(entries: dict[object, Entry]) -> Entry:
    (entry,) = entries.values()
    return entry


@pytest.mark.usefixtures("namespace")
def test_values_are_written_verified_and_put_back_byte_by_byte() -> None:
    keys = {
        SOMAXCONN: "777",
        "net/ipv4/tcp_rmem": "4096 65536 999999",
        PORTS: "20000 60001",
        RESERVED: "8080,9000-9010",
    }
    before = {key: Path("/proc/sys", key).read_bytes() for key in keys}
    said, entries = write(*(change(key, after) for key, after in keys.items()))
    assert said == []
    assert {key: " ".join(value(key).split()) for key in keys} == keys
    for entry in entries.values():
        assert len(put_back(entry, TREE).removed) == 1
        assert put_back(entry, TREE) == ((), (), ())
    assert {key: Path("/proc/sys", key).read_bytes() for key in keys} == before


@pytest.mark.usefixtures("namespace")
def test_all_originals_are_recorded_before_the_first_write() -> None:
    seen: list[tuple[object, object, str]] = []
    before = value(SOMAXCONN)

    def record(entry: Entry) -> None:
        seen.append((entry["key"], entry["state"], value(SOMAXCONN)))

    set_values(TREE, [change(SOMAXCONN, "777"), change(PORTS, "20000 60001")], record, lambda: False)
    assert seen == [
        (SOMAXCONN, "planned", before),
        (PORTS, "planned", before),
        (SOMAXCONN, "writing", before),
        (SOMAXCONN, "written", "777"),
        (PORTS, "writing", "777"),
        (PORTS, "written", "777"),
    ]


@pytest.mark.usefixtures("namespace")
def test_a_value_that_the_kernel_refuses_is_named() -> None:
    with pytest.raises(
        RunFailed, match=r"net\.core\.somaxconn = -1 was refused: Invalid argument; it is \d+"
    ):
        write(change(SOMAXCONN, "-1"))


@pytest.mark.usefixtures("namespace")
def test_a_value_that_the_kernel_rounds_is_said_and_put_back() -> None:
    key = "net/ipv4/neigh/lo/base_reachable_time_ms"
    before = value(key)
    after = next((n for n in range(1001, 1010) if _rounded(key, n)), None)
    if after is None:
        pytest.skip("this kernel counts single milliseconds: it needs one with CONFIG_HZ below 1000")
    TREE.write(key, before)
    said, entries = write(change(key, str(after)))
    assert said == [f"net.ipv4.neigh.lo.base_reachable_time_ms: the kernel made {value(key)} of {after}"]
    assert put_back(only(entries), TREE).removed
    assert value(key) == before


def _rounded(key: str, number: int) -> bool:
    TREE.write(key, str(number))
    return value(key) != str(number)


@pytest.mark.usefixtures("namespace")
def test_a_value_that_the_kernel_does_not_take_back_is_said() -> None:
    TREE.write("net/ipv4/ip_unprivileged_port_start", "800")
    TREE.write(PORTS, "900 60999")
    _, entries = write(change(PORTS, "2000 65535"))
    TREE.write("net/ipv4/ip_unprivileged_port_start", "1500")  # the kernel wants the range above it
    assert put_back(only(entries), TREE).pending == (
        "net.ipv4.ip_local_port_range cannot be put back to 900 60999: Invalid argument",
    )


@pytest.mark.usefixtures("namespace")
def test_what_somebody_else_changed_since_is_left_without_force() -> None:
    before = value(SOMAXCONN)
    _, entries = write(change(SOMAXCONN, "777"))
    entry = only(entries)
    TREE.write(SOMAXCONN, "888")
    (drift,) = put_back(entry, TREE).pending
    assert drift.startswith("net.core.somaxconn is 888, not the 777 that was set")
    assert value(SOMAXCONN) == "888"
    assert put_back(entry, TREE, force=True).removed == (f"net.core.somaxconn = {before}",)
    assert value(SOMAXCONN) == before


@pytest.mark.usefixtures("namespace")
def test_a_key_in_doubt_goes_back_whatever_it_is_and_a_planned_one_stays() -> None:
    before = value(SOMAXCONN)
    _, entries = write(change(SOMAXCONN, "777"))
    entry = only(entries)
    TREE.write(SOMAXCONN, "776")  # as if the kernel had rounded, and the journal not heard of it
    assert put_back({**entry, "state": "planned"}, TREE) == ((), (), ())
    assert value(SOMAXCONN) == "776"
    assert put_back({**entry, "state": "writing"}, TREE).removed
    assert value(SOMAXCONN) == before


def test_another_namespace_is_never_written_to() -> None:
    with network_namespace():
        _, entries = write(change(SOMAXCONN, "777"))
        entry = only(entries)
        with network_namespace():
            TREE.write(SOMAXCONN, "777")
            (said,) = put_back(entry, TREE, force=True).pending
            assert "belongs to the namespace net:[" in said
            assert value(SOMAXCONN) == "777"
        assert put_back(entry, TREE).removed


@pytest.mark.usefixtures("namespace")
def test_a_namespace_whose_inode_is_used_again_is_gone() -> None:
    link, slash, cookie = identity("net").partition("/")
    if not slash:
        pytest.skip("no SO_NETNS_COOKIE: it needs Linux 5.14")
    _, entries = write(change(SOMAXCONN, "777"))
    entry = only(entries)
    outcome = put_back({**entry, "namespace": f"{link}/{int(cookie) - 1}"}, TREE)
    assert outcome.kept == ("net.core.somaxconn: its network namespace is gone",)
    assert value(SOMAXCONN) == "777"


@pytest.mark.usefixtures("namespace")
def test_a_key_that_went_away_with_its_interface_is_said() -> None:
    key = "net/ipv4/conf/probe0/rp_filter"
    _, entries = write(change(key, "2"))
    subprocess.run(["ip", "link", "del", "probe0"], check=True)
    assert put_back(only(entries), TREE).kept == ("net.ipv4.conf.probe0.rp_filter is gone from this kernel",)


@pytest.mark.usefixtures("namespace")
def test_what_can_be_written_is_known_without_writing() -> None:
    assert TREE.read(SOMAXCONN).writable == "yes"
    assert TREE.read("net/core/rmem_max") == Reading(
        value("net/core/rmem_max"), "no", "the kernel has it read-only in this network namespace"
    ), "rmem_max is writable in a network namespace here: name another key"
    assert TREE.read("net/ipv4/route/flush") == Reading(None, "no", "it cannot be read: Permission denied")
    assert TREE.read("net/ipv4/no_such_key") == Reading(None)
    assert TREE.read("net/core/somaxconn/x") == Reading(None)


def test_a_change_meanwhile_stops_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("5\n")
    entries: list[Entry] = []
    with pytest.raises(RunFailed, match="key was 4 a moment ago and is 5"):
        set_values(
            Tree(tmp_path), [SysctlChange(key="key", before="4", after="6")], entries.append, lambda: False
        )
    assert entries == []
    assert (tmp_path / "key").read_text() == "5\n"


class Deaf(Tree):
    """Takes every write and keeps what it has."""

    def write(self, key: str, value: str) -> None:
        pass


def test_a_write_without_effect_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("5\n")
    with pytest.raises(RunFailed, match="taken without an error, but it still is 5"):
        write(SysctlChange(key="key", before="5", after="6"), tree=Deaf(tmp_path))
    entry: Entry = {"key": "key", "was": "4", "value": "5", "state": "written", "namespace": None}
    assert put_back(entry, Deaf(tmp_path)).pending == ("key was put back to 4, but reads '5'",)


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    tree = tmp_path / "tree"
    (tree / "net").mkdir(parents=True)
    (tree / "net" / "key").symlink_to(tmp_path / "victim")
    (tree / "core").symlink_to(tmp_path)
    for key in ("net/key", "core/victim"):
        with pytest.raises(OSError, match=r"symbolic|Not a directory"):
            Tree(tree).write(key, "x")
        assert Tree(tree).read(key).value is None
    assert (tmp_path / "victim").read_text() == "precious"


def test_bytes_that_are_no_text_come_back_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"a\xff\t b\n")
    value = Tree(tmp_path).read("key").value
    assert value is not None
    _, entries = write(
        SysctlChange(key="key", before=" ".join(value.split()), after="x"),
        tree=Tree(tmp_path),
    )
    assert (tmp_path / "key").read_bytes() == b"x\n"
    put_back(only(entries), Tree(tmp_path))
    assert (tmp_path / "key").read_bytes() == b"a\xff\t b\n"


def test_a_read_only_mount_is_said(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount: sudo .venv/bin/pytest")
    if subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=False).returncode != 0:
        pytest.skip("cannot mount a tmpfs: run with CAP_SYS_ADMIN")
    try:
        (tmp_path / "key").write_text("5\n")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        assert Tree(tmp_path).read("key") == Reading(
            "5", "no", f"{tmp_path} is mounted read-only, as in a container"
        )
    finally:
        subprocess.run(["umount", tmp_path], check=True)
