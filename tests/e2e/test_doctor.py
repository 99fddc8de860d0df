"""`connprobe doctor`, with every right and with none."""

import re
from collections.abc import Callable
from pathlib import Path

from connprobe.system.facts import read_facts
from running import Command, Run

Start = Callable[..., Command]


def doctor(start: Start, *arguments: str, prefix: tuple[str, ...] = ()) -> Run:
    run = start("doctor", *arguments, prefix=prefix).finish()
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return run


def test_each_resource_that_is_too_small_has_a_fix(start: Start) -> None:
    run = doctor(start, "--count", "100000000")
    assert run.says("Embedded server on loopback")
    assert run.says("A remote server (one source address)")
    for resource in ("file_max", "memory", "epoll_watches", "source_ports"):
        assert re.search(rf"^  {resource}: /?[^ ].*\n +fix: ", run.stdout, re.MULTILINE), run.stdout
    assert run.says(f"net.core.somaxconn is {read_facts().somaxconn:,}")


def test_an_ordinary_user_is_told_what_is_missing(start: Start, nobody: tuple[tuple[str, ...], Path]) -> None:
    run = doctor(start, prefix=nobody[0])
    assert re.search(r"missing +source addresses: no CAP_NET_ADMIN for --alias", run.stdout)
    assert run.says("fix: sudo connprobe")
    assert run.says("file descriptors")
