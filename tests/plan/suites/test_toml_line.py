"""Lines of keys, where tomllib tells none."""

import pytest

from connprobe.plan.suites.toml_line import line_of

TEXT = '''title = "a"
sizes = [
  1,
  2,
]

[[contestant]]  # the first
name = "a"
files = { "x.conf" = "y" }

  [[ contestant ]]
"name" = "b"
command = """
[[contestant]]
name = "no header, no key"
"""
port = 1

[contestant.environment]
KEY = "v"

[[workload]]
name = "w"
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 1),
        (("sizes",), 2),
        (("sizes", 1), 2),
        (("contestant", 0), 7),
        (("contestant", 0, "name"), 8),
        (("contestant", 0, "files", "x.conf"), 9),
        (("contestant", 1, "name"), 12),
        (("contestant", 1, "command", 0), 13),
        (("contestant", 1, "port"), 17),
        (("contestant", 1, "environment", "KEY"), 20),
        (("contestant", 1, "missing"), 11),
        (("workload", 0, "name"), 23),
        (("nowhere",), None),
        ((), None),
    ],
)
def test_the_line_of_a_path(path: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(TEXT, path) == line
