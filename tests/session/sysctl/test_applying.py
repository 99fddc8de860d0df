"""Applying and getting back exactly what was there: at a normal end, an error at every write, Ctrl-C, and a
SIGKILL at any line.

What a network namespace has of its own is tried on the real /proc/sys; keys of the whole host on a copy of
them, so that a test that is itself killed leaves nothing behind.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connprobe.errors import RunFailed, UsageError
from connprobe.plan.sysctl.changes import changes
from connprobe.plan.sysctl.file import Profile, expand, parse_profile
from connprobe.session import undo
from connprobe.session.sysctl.applying import apply, checked, inspect, preview, revert
from connprobe.session.undo import restore_stale
from connprobe.store.journal import Journal, stale_journals
from connprobe.store.lock import exclusive
from connprobe.system.sysctl import Tree
from killed import NEVER, run_until_line
from netns import network_namespace
from profiles import SHIPPED, shipped

SEED = 20_260_701
SOMAXCONN = "net/core/somaxconn"


def profile(text: str, name: str = "test") -> Profile:
    return parse_profile(name, f"{name}.conf", text.encode())


def snapshot(tree: Tree) -> dict[str, bytes]:
    """The bytes of every key of every shipped profile that is here."""
    keys = {each.key for name in SHIPPED for each in expand(shipped(name), tree.matching)}
    return {key: (tree.root / key).read_bytes() for key in sorted(keys) if (tree.root / key).exists()}


@pytest.fixture(params=["namespace", "copy"])
def tree(request: pytest.FixtureRequest) -> Iterator[Tree]:
    found: Tree = request.getfixturevalue(request.param)
    before = snapshot(found)
    assert len(before) > 5
    yield found
    assert snapshot(found) == before, "not everything was put back"


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    path = tmp_path / "journals"
    path.mkdir(mode=0o700)
    return path


def left_in(journals: Path) -> list[str]:
    return sorted(path.name for path in journals.iterdir() if path.suffix in (".journal", ".applied"))


def usable(name: str, tree: Tree) -> Profile:
    return shipped(name, of_a_namespace=tree.root == Path("/proc/sys"))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", SHIPPED)
def test_apply_and_revert_are_byte_identical(name: str, exact: bool, tree: Tree, journals: Path) -> None:
    wanted = usable(name, tree)
    before = snapshot(tree)
    expected = changes(inspect(wanted, tree), exact)
    done = apply(wanted, exact=exact, tree=tree, directory=journals)
    assert done.number == 1
    assert done.changes == expected
    after = snapshot(tree)
    assert {key for key in after if after[key] != before[key]} == {each.key for each in expected}
    assert all(after[each.key].split() == each.after.encode().split() for each in expected)
    rows = inspect(wanted, tree)
    if all(row.writable == "yes" for row in rows):
        assert checked(wanted, rows, exact).ok
    (undone,) = revert(tree=tree, directory=journals)
    assert len(undone.report.removed) == len(expected)
    assert snapshot(tree) == before
    assert left_in(journals) == []


def test_exact_changes_keys_that_plain_leaves(copy: Tree, journals: Path) -> None:
    """So that the tests above do not pass by changing nothing."""
    for name in SHIPPED:
        plain, exact = preview(shipped(name), False, copy), preview(shipped(name), True, copy)
        assert len(exact.changes) > 0
        assert len(exact.changes) > len(plain.changes) or not plain.left
        assert set(plain.changes) <= set(exact.changes) or plain.left


def test_profiles_nest(tree: Tree, journals: Path) -> None:
    states = [snapshot(tree)]
    for number, (name, exact) in enumerate([("gigabit", False), ("low-memory", True), ("gigabit", True)], 1):
        assert apply(usable(name, tree), exact=exact, tree=tree, directory=journals).number == number
        states.append(snapshot(tree))
    assert len({tuple(state.items()) for state in states}) == 4
    while len(states) > 1:
        states.pop()
        revert(tree=tree, directory=journals)
        assert snapshot(tree) == states[-1]
    assert revert(tree=tree, directory=journals) == []


def test_an_apply_that_changes_nothing_has_its_revert_too(namespace: Tree, journals: Path) -> None:
    before = snapshot(namespace)
    apply(usable("gigabit", namespace), tree=namespace, directory=journals)
    between = snapshot(namespace)
    assert apply(usable("gigabit", namespace), tree=namespace, directory=journals).changes == ()
    revert(tree=namespace, directory=journals)
    assert snapshot(namespace) == between
    revert(tree=namespace, directory=journals)
    assert snapshot(namespace) == before


def test_all_of_them_at_once(tree: Tree, journals: Path) -> None:
    for name, exact in (("gigabit", False), ("low-memory", True), ("many-connections", False)):
        apply(usable(name, tree), exact=exact, tree=tree, directory=journals)
    assert len(revert(everything=True, tree=tree, directory=journals)) == 3
    assert left_in(journals) == []


def test_by_number_where_nothing_later_stands_on_it(tree: Tree, journals: Path) -> None:
    apply(profile(f"{SOMAXCONN} = 70000"), tree=tree, directory=journals)
    apply(profile("net.ipv4.tcp_fin_timeout = 1"), tree=tree, directory=journals)
    apply(profile(f"{SOMAXCONN} = 80000", "third"), tree=tree, directory=journals)
    with pytest.raises(RunFailed, match=r"third \(id 3, .*changed net\.core\.somaxconn after it") as caught:
        revert(number=1, tree=tree, directory=journals)
    assert caught.value.fix == "connprobe sysctl revert --id 3"
    with pytest.raises(UsageError, match="nothing is applied under it") as usage:
        revert(number=7, tree=tree, directory=journals)
    assert usage.value.fix == "--id 3, --id 2, --id 1"
    for number in (2, 3, 1):
        revert(number=number, tree=tree, directory=journals)


# Errors


class Failing(Tree):
    """Refuses one write, as a kernel may at any moment."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root)
        self.at = at

    def write(self, key: str, value: str) -> None:
        self.at -= 1
        if self.at == 0:
            raise OSError(5, "Input/output error")
        super().write(key, value)


@pytest.mark.parametrize("name", SHIPPED)
def test_an_error_at_every_single_write(name: str, tree: Tree, journals: Path) -> None:
    wanted = usable(name, tree)
    wanted = wanted._replace(assignments=tuple(it._replace(optional=False) for it in wanted.assignments))
    before = snapshot(tree)
    todo = changes(inspect(wanted, tree), exact=True)
    for at, change in enumerate(todo, 1):
        with pytest.raises(RunFailed, match="was refused: Input/output error") as caught:
            apply(wanted, exact=True, tree=Failing(tree.root, at), directory=journals)
        assert change.key.rpartition("/")[2] in caught.value.message
        assert ("put back" in caught.value.message) == (at > 1)
        assert snapshot(tree) == before
        assert left_in(journals) == []


def test_an_error_of_the_real_kernel_at_every_single_write(namespace: Tree, journals: Path) -> None:
    keys = {SOMAXCONN: "7001", "net/ipv4/tcp_tw_reuse": "1", "net/ipv4/tcp_syncookies": "2"}
    before = snapshot(namespace)
    for bad in keys:
        text = "\n".join(f"{key} = {'-5' if key == bad else value}" for key, value in keys.items())
        with pytest.raises(RunFailed, match=rf"{bad.replace('/', '.')} = -5 was refused: Invalid argument"):
            apply(profile(text), exact=True, tree=namespace, directory=journals)
        assert snapshot(namespace) == before
        assert left_in(journals) == []


def test_an_error_at_every_journal_entry(tree: Tree, journals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = usable("gigabit", tree)
    before, record = snapshot(tree), Journal.record
    entries = 3 * len(changes(inspect(wanted, tree), exact=True))
    for at in range(1, entries + 1):
        left = [at]

        def refuse(self: Journal, entry: dict[str, object], left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise RunFailed("the disk is full: nothing was changed")
            record(self, entry)

        monkeypatch.setattr(Journal, "record", refuse)
        with pytest.raises(RunFailed, match="the disk is full"):
            apply(wanted, exact=True, tree=tree, directory=journals)
        assert snapshot(tree) == before
        assert left_in(journals) == []


def test_ctrl_c_between_any_two_writes(tree: Tree, journals: Path) -> None:
    wanted = usable("gigabit", tree)
    before = snapshot(tree)
    writes = len(changes(inspect(wanted, tree), exact=True))
    for at in range(writes + 1):
        left = iter(range(at))

        def stop(left: Iterator[int] = left) -> bool:
            return next(left, None) is None

        with pytest.raises(KeyboardInterrupt):
            apply(wanted, exact=True, tree=tree, directory=journals, stop=stop)
        assert snapshot(tree) == before
        assert left_in(journals) == []


def test_what_cannot_be_put_back_is_said_and_stays_in_the_journal(copy: Tree, journals: Path) -> None:
    class Stuck(Failing):
        def write(self, key: str, value: str) -> None:
            self.at -= 1
            if self.at <= 0:
                raise OSError(5, "Input/output error")
            Tree.write(self, key, value)

    before = snapshot(copy)
    with pytest.raises(RunFailed, match=r"NOT put back: net\.core\.somaxconn cannot be put back to"):
        apply(shipped("gigabit"), tree=Stuck(copy.root, 2), directory=journals)
    assert len(left_in(journals)) == 1
    (undone,) = revert(tree=copy, directory=journals)
    assert len(undone.report.removed) == 1
    assert snapshot(copy) == before


def test_a_refusal_of_an_optional_key_is_none(namespace: Tree, journals: Path) -> None:
    before = snapshot(namespace)
    text = f"{SOMAXCONN} = 7001\n-net.ipv4.tcp_tw_reuse = -5\nnet.ipv4.tcp_syncookies = 2"
    done = apply(profile(text), exact=True, tree=namespace, directory=journals)
    assert done.said == (
        "net.ipv4.tcp_tw_reuse = -5 was refused: Invalid argument; the profile does not insist",
    )
    assert namespace.read("net/ipv4/tcp_syncookies").value == "2"
    (undone,) = revert(tree=namespace, directory=journals)
    assert len(undone.report.removed) == 2
    assert snapshot(namespace) == before


# SIGKILL


@pytest.mark.parametrize(("host", "rounds"), [("namespace", 200), ("copy", 60)])
def test_killed_anywhere_the_next_revert_restores_exactly(
    host: str, rounds: int, request: pytest.FixtureRequest, journals: Path
) -> None:
    """Apply is killed at a random line, and often the revert after it too; sometimes over another apply."""
    tree: Tree = request.getfixturevalue(host)
    chance = random.Random(SEED)
    original = snapshot(tree)
    lengths: dict[tuple[str, bool], int] = {}
    killed = changed = 0
    for _ in range(rounds):
        name, exact = chance.choice([("gigabit", False), ("gigabit", True), ("low-memory", True)])
        nested = chance.random() < 0.25
        if nested:
            apply(profile(f"{SOMAXCONN} = 5555", "below"), tree=tree, directory=journals)
        base = snapshot(tree)

        def begin(name: str = name, exact: bool = exact) -> object:
            return apply(usable(name, tree), exact=exact, tree=tree, directory=journals)

        def back() -> object:
            return revert(tree=tree, directory=journals)

        if (name, exact) not in lengths:
            lines = run_until_line(NEVER, begin)
            assert lines is not None
            lengths[name, exact] = lines
            back()
            assert snapshot(tree) == base
        # Anywhere, and as often in the last third, where it writes.
        first = chance.choice([1, 2 * lengths[name, exact] // 3])
        killed += run_until_line(chance.randrange(first, lengths[name, exact]), begin) is None

        def started(nested: bool = nested) -> bool:
            """Whether there is anything of it to revert: a revert may be killed as it has just done all."""
            return len(left_in(journals)) > nested

        changed += snapshot(tree) != base
        for _ in range(chance.randrange(3)):
            if started():
                run_until_line(chance.randrange(1, 1500), back)
        if started():
            back()
        assert snapshot(tree) == base
        if nested:
            back()
        assert snapshot(tree) == original
        assert left_in(journals) == []
    assert killed > rounds * 0.9
    assert changed > rounds * 0.2, "too few were killed between their first write and their end"


def test_after_a_kill_the_next_apply_restores_and_refuses(tree: Tree, journals: Path) -> None:
    before = snapshot(tree)

    def begin() -> object:
        return apply(usable("gigabit", tree), exact=True, tree=tree, directory=journals)

    lines = run_until_line(NEVER, begin)
    assert lines is not None
    revert(tree=tree, directory=journals)
    at = lines
    while snapshot(tree) == before or not left_in(journals)[0].endswith(".journal"):
        revert(tree=tree, directory=journals)
        at -= 25
        assert run_until_line(at, begin) is None
    with pytest.raises(
        RunFailed, match=r"^refused: there was gigabit, left by .*which was killed.*undone now"
    ):
        begin()
    assert snapshot(tree) == before
    assert left_in(journals) == []
    assert begin() is not None
    revert(tree=tree, directory=journals)


def test_restore_puts_back_what_was_killed_and_leaves_what_is_applied(copy: Tree, journals: Path) -> None:
    """On the copy nothing of the real /proc/sys is touched: its keys have no such values."""
    apply(shipped("gigabit"), tree=copy, directory=journals)
    assert restore_stale(journals) == []
    assert left_in(journals) == ["sysctl-1.applied"]
    revert(tree=copy, directory=journals)


def test_restore_has_no_journal_in_its_hands_when_it_takes_the_lock(
    journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An apply that has the lock would not see that a run was killed, and take its values for the first."""
    with Journal.create("hold", journals) as killed:
        killed.record({"kind": "sysctl-of-no-kernel"})  # nothing undoes that, so nothing is touched
    free: list[int] = []

    def locking(*arguments: Any, **named: Any) -> Any:
        found = stale_journals(journals)
        for journal in found:
            journal.close()
        free.append(len(found))
        return exclusive(*arguments, **named)

    monkeypatch.setattr(undo, "exclusive", locking)
    assert len(restore_stale(journals)) == 1
    assert free == [1]


# Others


def test_what_somebody_else_changed_since_is_left_without_force(namespace: Tree, journals: Path) -> None:
    before = snapshot(namespace)
    apply(usable("gigabit", namespace), tree=namespace, directory=journals)
    namespace.write(SOMAXCONN, "31337")
    for _ in range(2):
        (undone,) = revert(tree=namespace, directory=journals)
        assert undone.report.pending[0].startswith("net.core.somaxconn is 31337, not the 16384 that was set")
        assert namespace.read(SOMAXCONN).value == "31337"
    (undone,) = revert(force=True, tree=namespace, directory=journals)
    assert undone.report.pending == ()
    assert snapshot(namespace) == before


def test_another_network_namespace_is_not_reverted_into(namespace: Tree, journals: Path) -> None:
    before = snapshot(namespace)
    apply(usable("gigabit", namespace), tree=namespace, directory=journals)
    with network_namespace():
        theirs = snapshot(namespace)
        (undone,) = revert(force=True, tree=namespace, directory=journals)
        assert undone.report.pending
        assert all("belongs to the namespace" in each for each in undone.report.pending)
        assert snapshot(namespace) == theirs
        apply(profile(f"{SOMAXCONN} = 7007"), tree=namespace, directory=journals)
        assert revert(tree=namespace, directory=journals)[0].report.removed
        assert snapshot(namespace) == theirs
        apply(profile(f"{SOMAXCONN} = 7007"), tree=namespace, directory=journals)
    (undone,) = revert(tree=namespace, directory=journals)  # the last of this namespace, not the last of all
    assert undone.who.startswith("gigabit (id 1")
    assert snapshot(namespace) == before


def test_two_at_once_the_second_is_refused(
    copy: Tree, journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connprobe.session.sysctl.applying.LOCK_PATIENCE_S", 0.0)
    with exclusive("sysctl", "connprobe hold --sysctl", journals):
        for action in (
            lambda: apply(shipped("gigabit"), tree=copy, directory=journals),
            lambda: revert(tree=copy, directory=journals),
        ):
            with pytest.raises(RunFailed, match=r"connprobe hold --sysctl .* has the lock on sysctl"):
                action()
    assert left_in(journals) == []


def test_nothing_writable_is_a_failure_that_says_why(copy: Tree, journals: Path) -> None:
    for path in copy.root.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    with pytest.raises(RunFailed, match="none of the keys of gigabit can be written: the kernel has it"):
        apply(shipped("gigabit"), exact=True, tree=copy, directory=journals)
    assert left_in(journals) == []


def test_a_key_that_is_not_writable_is_left_and_the_rest_applied(copy: Tree, journals: Path) -> None:
    before = snapshot(copy)
    (copy.root / SOMAXCONN).chmod(0o444)
    done = apply(shipped("gigabit"), tree=copy, directory=journals)
    assert any(line.startswith("net.core.somaxconn: not writable") for line in done.left)
    assert SOMAXCONN not in {change.key for change in done.changes}
    assert done.changes
    revert(tree=copy, directory=journals)
    assert snapshot(copy) == before


# --persist


def test_a_persisted_profile_has_what_is_in_force(copy: Tree, journals: Path, tmp_path: Path) -> None:
    done = apply(shipped("gigabit"), persist_in=tmp_path / "sysctl.d", tree=copy, directory=journals)
    assert done.file == tmp_path / "sysctl.d" / "90-connprobe-gigabit.conf"
    rows = inspect(profile(done.file.read_text()), copy)
    assert {row.effect for row in rows} == {"same"}
    assert "# net.ipv4.tcp_mem: left at" in done.file.read_text()
    again = apply(shipped("gigabit"), persist_in=tmp_path / "sysctl.d", tree=copy, directory=journals)
    assert again.file_was_there
    revert(tree=copy, directory=journals)
    assert done.file.exists()
    revert(tree=copy, directory=journals)
    assert not done.file.exists()


def test_what_an_earlier_apply_raised_in_part_is_persisted_too(
    copy: Tree, journals: Path, tmp_path: Path
) -> None:
    """tcp_rmem of most kernels: gigabit raises its maximum and would lower its middle."""
    (copy.root / "net/ipv4/tcp_rmem").write_text("4096\t131072\t6291456\n")
    apply(shipped("gigabit"), tree=copy, directory=journals)
    done = apply(shipped("gigabit"), persist_in=tmp_path, tree=copy, directory=journals)
    assert done.file is not None
    assert "net.ipv4.tcp_rmem = 4096 131072 16777216\n" in done.file.read_text()
    assert apply(shipped("gigabit"), persist_in=tmp_path, tree=copy, directory=journals).file_was_there


def test_a_persisted_file_that_cannot_be_written_takes_everything_back(
    copy: Tree, journals: Path, tmp_path: Path
) -> None:
    before = snapshot(copy)
    (tmp_path / "90-connprobe-gigabit.conf").write_text("# another\n")
    with pytest.raises(RunFailed, match="is there already, and not the same; put back: "):
        apply(shipped("gigabit"), persist_in=tmp_path, tree=copy, directory=journals)
    assert snapshot(copy) == before
    assert left_in(journals) == []
