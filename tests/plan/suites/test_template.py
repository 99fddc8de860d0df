"""${...} in suites and their templates."""

import pytest

from connprobe.plan.suites.template import BadTemplate, check, fill


def test_values_are_filled_in_and_two_dollars_are_one() -> None:
    text = "listen ${port};\nproxy $$host ${port}"
    check(text, ("port",))
    assert fill(text, {"port": "81", "other": "x"}) == "listen 81;\nproxy $host 81"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a\nb $host", 2, r"a \$ alone"),
        ("${port}\n\n${prot}", 3, r"there is no \$\{prot\} here; there are \$\{port\}"),
        ("${}", 1, r"there is no \$\{\}"),
        ("cost $", 1, r"a \$ alone"),
        ("$$$x", 1, r"a \$ alone"),
        ("${port", 1, r"a \$ alone"),
    ],
)
def test_what_would_not_fill_in_is_told_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(BadTemplate, match=said) as caught:
        check(text, ("port",))
    assert caught.value.line == line
