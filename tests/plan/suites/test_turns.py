"""The order of the bouts of a comparison."""

from connprobe.model.bout import Turn
from connprobe.plan.suites.suite import parse_suite
from connprobe.plan.suites.turns import turns

SUITE = parse_suite(
    """sizes = [5]
[[workload]]
name = "plain"
[[workload]]
name = "secret"
tls = true
[[contestant]]
name = "a"
command = ["a"]
[[contestant]]
name = "b"
command = ["b"]
[[contestant]]
name = "c"
command = ["c"]
[[contestant]]
name = "a"
tls = true
command = ["a"]
""",
    "s.toml",
)


def names(order: list[Turn], **only: object) -> str:
    chosen = [it for it in order if all(getattr(it, key) == value for key, value in only.items())]
    return "".join(it.contestant for it in chosen)


def test_contestants_follow_each_other_and_another_is_first_in_each_round() -> None:
    order = turns(SUITE, (7, 11), 4, [True] * 4)
    assert len(order) == len(set(order)) == 2 * 4 * 4
    plain = [names(order, workload="plain", size=7, round=number) for number in (1, 2, 3, 4)]
    assert plain == ["abc", "bca", "cab", "abc"]
    assert order[:4] == [*(Turn("plain", 7, name, 1) for name in "abc"), Turn("secret", 7, "a", 1)]
    assert [it.round for it in order] == sorted(it.round for it in order)


def test_who_does_not_take_part_has_no_turn() -> None:
    order = turns(SUITE, (7,), 2, [True, False, True, False])
    assert names(order) == "acca"
    assert turns(SUITE, (7,), 2, [False] * 4) == []
