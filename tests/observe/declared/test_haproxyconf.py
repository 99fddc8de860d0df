"""HAProxy's syntax, and which maxconn a frontend ends up with."""

from pathlib import Path

import pytest

from connprobe.observe.declared.haproxyconf import Value, parse

FILE = Path("/etc/haproxy.cfg")


def test_maxconn_of_its_own_or_of_its_defaults() -> None:
    text = """global
  maxconn 5003  # not 7
  stats socket /run/a\\ b.sock mode 660
  stats socket ipv4@127.0.0.1:9999
defaults
  maxconn 401
frontend one
  bind :80,10.0.0.1:8000-8010 ssl
frontend two
  bind [::1]:443
  maxconn 307
defaults late
  mode tcp
listen three 127.0.0.1:25
  maxconn 211
  server s 10.0.0.9:25 maxconn 3
backend b
  server s 10.0.0.9:80 maxconn 5
defaults later from late
  maxconn 101
frontend four from late
  bind /run/socket:1
frontend five from later
  bind *:90
"""
    config = parse({FILE: text}, {})
    assert config.maxconn == Value(5003, f"{FILE}:2")
    assert config.sockets == ("/run/a b.sock",)
    assert not config.conditions
    found = {each.name: each for each in config.frontends}
    assert {name: each.maxconn.number if each.maxconn else None for name, each in found.items()} == {
        "one": 401,
        "two": 307,
        "three": 211,
        "four": None,
        "five": 101,
    }
    binding = {
        port: [each.name for each in config.frontends if each.binds(port)] for port in (80, 8007, 443, 25, 1)
    }
    assert binding == {80: ["one"], 8007: ["one"], 443: ["two"], 25: ["three"], 1: []}


def test_variables_stand_for_their_values_in_double_quotes() -> None:
    text = 'global\n maxconn "${MOST}"\ndefaults\n maxconn "$MOST"\nfrontend f\n bind "${WHERE-:81}"\n'
    config = parse({FILE: text}, {"MOST": "701"})
    assert config.maxconn is not None
    assert config.maxconn.number == 701
    assert config.frontends[0].maxconn == Value(701, f"{FILE}:4")
    assert config.frontends[0].binds(81)


def test_several_files_are_one() -> None:
    config = parse(
        {Path("/a"): "global\n maxconn 7\n", Path("/b"): ".if defined(X)\nfrontend f\n.endif\n"}, {}
    )
    assert config.maxconn == Value(7, "/a:2")
    assert [each.where for each in config.frontends] == ["/b:2"]
    assert config.conditions


@pytest.mark.parametrize("word", ["many", "-1", '"$UNSET"', "9" * 30])
def test_what_is_no_number_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=f"{FILE}:2: maxconn"):
        parse({FILE: f"global\n maxconn {word}\n"}, {})


@pytest.mark.parametrize(
    "text", ["\0\xff'\"\\", "maxconn", "bind", "defaults from", 'frontend "', "listen a b c"]
)
def test_hostile_lines_are_passed_over(text: str) -> None:
    assert parse({FILE: text}, {}).maxconn is None
