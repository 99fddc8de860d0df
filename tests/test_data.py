import pytest

from connprobe.data import data_dir


def test_the_probes_of_a_checkout() -> None:
    assert (data_dir("probes") / "common.bpf.h").is_file()


def test_the_profiles_of_a_checkout() -> None:
    assert (data_dir("sysctl.d") / "gigabit.conf").is_file()


def test_the_reference_servers_of_a_checkout() -> None:
    assert (data_dir("targets") / "node_store.js").is_file()


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="lacks its nonsense/"):
        data_dir("nonsense")
