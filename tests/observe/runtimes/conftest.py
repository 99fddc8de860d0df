"""Real servers on the runtimes that are installed here."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from connprobe.observe.runtimes import Preparation, prepare
from started import Started


@pytest.fixture
def prepared() -> Iterator[Preparation]:
    preparation = prepare({})
    yield preparation
    preparation.close()
    assert not preparation.directory.parent.parent.exists()


@pytest.fixture
def run() -> Iterator[Callable[..., Started]]:
    """run(command, environment={}) -> Started."""
    started: list[Started] = []

    def starter(*command: str | Path, environment: Mapping[str, str] | None = None) -> Started:
        started.append(Started([str(word) for word in command], environment or {}))
        return started[-1]

    yield starter
    for each in started:
        each.end()


@pytest.fixture
def node(run: Callable[..., Started], tmp_path: Path) -> Callable[..., Started]:
    """node(code, *flags, environment={}) -> Started."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node here: apt-get install nodejs")

    def starter(code: str, *flags: str, environment: Mapping[str, str] | None = None) -> Started:
        script = tmp_path / "server.js"
        script.write_text(code)
        return run("node", *flags, script, environment=environment)

    return starter
