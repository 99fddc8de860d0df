import pytest

from connprobe.plan.capabilities import effective_capabilities


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("0000000000000000", ()),
        ("0000000000000001", ("CAP_CHOWN",)),
        ("0000000000001000", ("CAP_NET_ADMIN",)),
        ("0000000001200000", ("CAP_SYS_ADMIN", "CAP_SYS_RESOURCE")),
        ("0000018000000000", ("CAP_BPF", "CAP_CHECKPOINT_RESTORE")),
        ("0000060000000000", ("CAP_41", "CAP_42")),
    ],
)
def test_decoding(mask: str, expected: tuple[str, ...]) -> None:
    assert effective_capabilities(f"CapPrm:\tffffffffffffffff\nCapEff:\t{mask}\nCapBnd:\t0\n") == expected


def test_without_the_line() -> None:
    with pytest.raises(ValueError, match="CapEff"):
        effective_capabilities("Name:\tCapEff: 1\n")
