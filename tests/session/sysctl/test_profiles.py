from pathlib import Path

import pytest

from connprobe.errors import RunFailed, UsageError
from connprobe.session.sysctl.profiles import list_profiles, load


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's directory of profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    directory = tmp_path / "connprobe" / "sysctl.d"
    directory.mkdir(parents=True)
    return directory


def test_shipped_and_own_profiles_are_listed_with_what_they_are_for(own: Path) -> None:
    (own / "mine.conf").write_text("; For my gateway\nnet.core.somaxconn = 5\n")
    (own / "broken.conf").write_text("net.core.somaxconn\n")
    found = {each.name: each for each in list_profiles()}
    assert set(found) == {"broken", "gigabit", "low-memory", "many-connections", "mine"}
    assert found["mine"].about == "For my gateway"
    assert "line 1" in found["broken"].problem
    assert all(each.about for name, each in found.items() if name != "broken")


def test_an_own_profile_stands_for_a_shipped_one(own: Path) -> None:
    assert load("gigabit").assignments
    (own / "gigabit.conf").write_text("net.core.somaxconn = 5\n")
    assert [each.value for each in load("gigabit").assignments] == ["5"]
    assert load("gigabit").source == str(own / "gigabit.conf")


def test_a_path_is_a_path(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "mine.conf").write_text("net.core.somaxconn = 5\n")
    monkeypatch.chdir(own)
    for text in ("mine", "mine.conf", "./mine.conf", str(own / "mine.conf")):
        assert (load(text).name, len(load(text).assignments)) == ("mine", 1)


def test_a_relative_configuration_directory_is_ignored(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "mine.conf").write_text("net.core.somaxconn = 5\n")
    monkeypatch.chdir(own.parent.parent)
    monkeypatch.setenv("XDG_CONFIG_HOME", ".")
    monkeypatch.setenv("HOME", str(own / "nowhere"))
    with pytest.raises(UsageError, match="no profile 'mine'"):
        load("mine")


@pytest.mark.parametrize("name", ["", "..", "nothing", "gigabit\n", "*"])
def test_what_is_not_there_lists_what_is(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(name)
    assert "gigabit, low-memory, many-connections" in (caught.value.fix or "")


def test_a_file_that_cannot_be_read_is_named(own: Path) -> None:
    (own / "loop.conf").symlink_to("loop.conf")
    (own / "fifo.conf").mkdir()
    with pytest.raises(RunFailed, match=r"fifo\.conf cannot be read"):
        load("fifo")
    with pytest.raises(UsageError, match="no profile 'loop'"):
        load("loop")
