from pathlib import Path

import pytest

from connprobe.plan.sysctl.file import parse_profile
from connprobe.session.sysctl.applying import apply, revert
from connprobe.session.sysctl.status import Status, status
from connprobe.store.lock import exclusive
from connprobe.system.sysctl import Tree
from killed import NEVER, run_until_line
from netns import network_namespace

SOMAXCONN, FIN = "net/core/somaxconn", "net/ipv4/tcp_fin_timeout"


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    path = tmp_path / "journals"
    path.mkdir(mode=0o700)
    return path


def begin(text: str, tree: Tree, journals: Path) -> None:
    apply(parse_profile("test", "test.conf", text.encode()), exact=True, tree=tree, directory=journals)


def states(found: Status) -> list[list[tuple[str, str]]]:
    return [[(row.key, row.state) for row in rows] for _, rows in (*found.killed, *found.applied)]


def test_a_later_apply_is_no_drift(namespace: Tree, journals: Path, tmp_path: Path) -> None:
    begin(f"{SOMAXCONN} = 7001\n{FIN} = 7", namespace, journals)
    begin(f"{SOMAXCONN} = 7002", namespace, journals)
    expected = [[("net.core.somaxconn", "as set")]]
    expected.append([("net.core.somaxconn", "as set"), ("net.ipv4.tcp_fin_timeout", "as set")])
    assert states(status(namespace, tmp_path, journals)) == expected
    namespace.write(SOMAXCONN, "9")
    namespace.write(FIN, "60")
    expected[0] = [("net.core.somaxconn", "changed since")]
    expected[1][1] = ("net.ipv4.tcp_fin_timeout", "back")
    assert states(status(namespace, tmp_path, journals)) == expected


def test_another_namespace_is_said(namespace: Tree, journals: Path, tmp_path: Path) -> None:
    begin(f"{SOMAXCONN} = 7001", namespace, journals)
    with network_namespace():
        assert states(status(namespace, tmp_path, journals)) == [
            [("net.core.somaxconn", "another namespace")]
        ]


def test_who_is_at_it_now_and_which_files_persist(copy: Tree, journals: Path, tmp_path: Path) -> None:
    (tmp_path / "90-connprobe-x.conf").touch()
    (tmp_path / "99-other.conf").touch()
    with exclusive("sysctl", "connprobe hold --sysctl", journals):
        found = status(copy, tmp_path, journals)
    assert "connprobe hold --sysctl" in (found.busy or "")
    assert found.files == (tmp_path / "90-connprobe-x.conf",)
    assert status(copy, tmp_path, journals).busy is None


def test_a_killed_apply_is_told_apart(copy: Tree, journals: Path, tmp_path: Path) -> None:
    keys = (SOMAXCONN, "net/core/rmem_max", "net/core/wmem_max")
    for key in keys:
        copy.write(key, "4096")
    text = "\n".join(f"{key} = 7" for key in keys)
    lines = run_until_line(NEVER, lambda: begin(text, copy, journals))
    assert lines is not None
    revert(tree=copy, directory=journals)
    for at in range(lines, 0, -20):
        assert run_until_line(at, lambda: begin(text, copy, journals)) is None
        found = status(copy, tmp_path, journals)
        if found.killed and found.killed[0][1][0].state == "as set" and found.killed[0][1][2].state == "back":
            break
        for path in journals.iterdir():
            path.unlink()
        for key in keys:
            copy.write(key, "4096")
    else:
        pytest.fail("it was never seen half done")
    assert "which was killed" in found.killed[0][0]
    assert found.applied == ()


def test_a_damaged_journal_does_not_stand_before_a_whole_one(copy: Tree, journals: Path) -> None:
    before = copy.read("net/core/somaxconn").value
    apply(parse_profile("t", "t.conf", b"net.core.somaxconn = 54321"), tree=copy, directory=journals)
    (journals / "sysctl-3.applied").write_text("garbage\n")
    (undone,) = revert(tree=copy, directory=journals)
    assert undone.report.pending == ()
    assert copy.read("net/core/somaxconn").value == before
    assert (journals / "sysctl-3.applied").exists()


def test_a_journal_that_cannot_be_read_is_said(copy: Tree, journals: Path, tmp_path: Path) -> None:
    (journals / "sysctl-3.applied").write_text("garbage\n")
    found = status(copy, tmp_path, journals)
    assert found.applied == ()
    assert "sysctl-3.applied cannot be understood and is left alone" in found.damaged[0]
    (undone,) = revert(tree=copy, directory=journals)
    assert "left alone" in undone.report.pending[0]
    assert (journals / "sysctl-3.applied").exists()
