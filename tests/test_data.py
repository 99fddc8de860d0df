from pathlib import Path

from connprobe.data import data_dir

CHECKOUT = Path(__file__).parent.parent


def test_a_checkout_has_its_profiles_at_the_top() -> None:
    assert data_dir("sysctl.d") == CHECKOUT / "sysctl.d"
    assert (data_dir("sysctl.d") / "gigabit.conf").is_file()
