"""A suite is read, or its mistake is named with file, line and key."""

import pytest

from connprobe.errors import UsageError
from connprobe.plan.suites.suite import names_of, parse_suite

GOOD = """sizes = [50, 100]

[[workload]]
name = "plain"
protocol = "tcp"

[[backend]]
name = "echo"
command = ["echo-server", "${port}"]

[[contestant]]
name = "one"
protocol = "tcp"
control = true
command = ["one", "${port}"]

[[contestant]]
name = "two"
protocol = "tcp"
backends = ["echo"]
command = ["two", "${port}", "${backend_port}"]
"""


def test_what_is_left_out_has_its_default() -> None:
    suite = parse_suite(GOOD, "s.toml")
    assert (suite.sizes, suite.repeats) == ((50, 100), 3)
    (workload,) = suite.workloads
    assert (workload.messages, workload.concurrency, workload.tls) == (1, 100, False)
    one, two = suite.contestants
    assert (one.control, two.control, one.port) == (True, False, None)
    assert [it.name for it in suite.backends_of(two)] == ["echo"]


def test_what_each_program_may_name() -> None:
    suite = parse_suite(GOOD, "s.toml")
    one, two = suite.contestants
    assert "backend_port" not in names_of(suite, one)
    assert "backend_port" in names_of(suite, two)
    assert "backend_port" not in names_of(suite, suite.backend_programs[0])
    assert "certificate" not in names_of(suite, two)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("sizes = [50, 100]", "sizes = [50, 0]", "s.toml, line 1: sizes[2]: expected `int` >= 1"),
        ("sizes = [50, 100]", "sizes = []", "s.toml, line 1: sizes: expected `array` of length >= 1"),
        ("sizes = [50, 100]", "sizes = [50, 50]", "s.toml, line 1: sizes: 50 is there twice"),
        ("sizes = [50, 100]", "", "s.toml: object missing required field `sizes`"),
        (
            "control = true",
            "control = 1",
            "s.toml, line 14: contestant[1].control: expected `bool`, got `int`",
        ),
        ("control = true", "contrl = true", "s.toml, line 14: contestant[1].contrl: there is no such key"),
        ('command = ["one", "${port}"]', "", "s.toml, line 11: contestant[1]: object missing required field"),
        (
            'name = "two"',
            'name = "one"',
            "s.toml, line 18: contestant[2].name: there is another contestant 'one'",
        ),
        ('name = "two"', 'name = "../x"', "s.toml, line 18: contestant[2].name: expected `str` matching"),
        (
            'backends = ["echo"]',
            'backends = ["ech"]',
            "s.toml, line 20: contestant[2].backends: there is no [[backend]] 'ech'",
        ),
        (
            '"two", "${port}", "${backend_port}"',
            '"two", "${prot}"',
            "s.toml, line 21: contestant[2].command: there is no ${prot} here; there are ${backend_port},",
        ),
        (
            '"one", "${port}"',
            '"one", "${backend_port}"',
            "s.toml, line 15: contestant[1].command: there is no ${backend_port}",
        ),
        ('"one", "${port}"', '"one", "$port"', "s.toml, line 15: contestant[1].command: a $ alone"),
        (
            'name = "two"\nprotocol = "tcp"',
            'name = "two"\nprotocol = "tcp"\ncontrol = true',
            "s.toml, line 20: contestant[2].control: the workload 'plain' has two controls",
        ),
        (
            'name = "two"\nprotocol = "tcp"',
            'name = "two"\nprotocol = "ws"',
            's.toml, line 17: contestant[2]: no workload has protocol = "ws" and tls = false',
        ),
        (
            'name = "plain"\nprotocol = "tcp"',
            'name = "plain"\nprotocol = "tcp"\nmessage = "2MiB"',
            "s.toml, line 6: workload[1].message: message '2MiB' is longer than 1,048,576 bytes",
        ),
        (
            'name = "plain"\nprotocol = "tcp"',
            'name = "plain"\nprotocol = "http"\nmessage = "hi"',
            "s.toml, line 6: workload[1].message: with HTTP a message is the request once more",
        ),
        (
            '"${port}", "${backend_port}"]',
            '"x"]\nenvironment = { A = "1", "b c" = "x" }',
            "s.toml, line 22: contestant[2].environment.b c: this key: expected `str` matching regex",
        ),
        (
            '"${port}", "${backend_port}"]',
            '"x"]\nenvironment = { "A\\n" = "x" }',
            "s.toml, line 22: contestant[2].environment.A\n: this key: expected `str` matching regex",
        ),
        ('name = "plain"', 'name = "plain\\n"', "s.toml, line 4: workload[1].name: expected `str` matching"),
        (
            '"${port}", "${backend_port}"]',
            '"x"]\n[contestant.files]\nok = "1"\n"../x" = "x"',
            "s.toml, line 24: contestant[2].files.../x: this key: expected `str` matching regex",
        ),
        (
            '"${port}", "${backend_port}"]',
            '"x"]\nenvironment = { A = "1", B = 2 }',
            "s.toml, line 22: contestant[2].environment.B: expected `str`, got `int`",
        ),
        (
            '"one", "${port}"',
            '"one", "a\\u0000b"',
            "s.toml, line 15: contestant[1].command: a NUL cannot be passed on to a program",
        ),
        (
            '"${port}", "${backend_port}"]',
            '"x"]\nenvironment = { A = "1\\u0000" }',
            "s.toml, line 22: contestant[2].environment.A: a NUL cannot be passed on to a program",
        ),
        (
            '"one", "${port}"',
            f'"one", "{"x" * 200_000}"',
            "s.toml, line 15: contestant[1].command: a word of more than 120,000 bytes starts no program",
        ),
        (
            '"one", "${port}"',
            '"./run.sh", "${port}"',
            "s.toml, line 15: contestant[1].command: ./run.sh would be looked for in the working directory: "
            "write ${suite}/run.sh",
        ),
        (
            "control = true",
            'version = ["bin/one", "-v"]',
            "s.toml, line 14: contestant[1].version: bin/one would be looked for",
        ),
        (
            "control = true",
            'requires = ["node_modules"]',
            "s.toml, line 14: contestant[1].requires: node_modules would be looked for",
        ),
        (
            'name = "plain"\nprotocol = "tcp"',
            'name = "plain"\nprotocol = "tcp"\nmessage = "@hello.txt"',
            "s.toml, line 6: workload[1].message: a suite reads no file for it",
        ),
        ("sizes = [50, 100]", "sizes = [50 100]", "s.toml, line 1, column 13: unclosed array"),
    ],
)
def test_a_mistake_has_its_line_and_key(before: str, after: str, said: str) -> None:
    text = GOOD.replace(before, after, 1)
    assert text != GOOD
    with pytest.raises(UsageError) as caught:
        parse_suite(text, "s.toml")
    assert caught.value.message.lower().startswith(said.lower()), caught.value.message
    assert caught.value.fix


def test_what_is_nested_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^s\.toml: its arrays or tables are nested too deeply$"):
        parse_suite(f"a = {'[' * 3000}{']' * 3000}", "s.toml")
