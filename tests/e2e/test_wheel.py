"""The wheel, alone in an empty environment: an editable install hides files that were not packaged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent.parent


class Installed:
    """An environment outside the checkout with nothing but the wheel and its dependencies."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = home / "environment"
        # Neither PYTHONPATH nor the current directory may lead back to the checkout.
        self.variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, *command: str | Path, timeout_s: float = 60) -> str:
        """Standard output of a command, which has to succeed."""
        ran = subprocess.run(
            command,
            cwd=self.home,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert ran.returncode == 0, f"{command} exited with {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def connprobe(self) -> Path:
        return self.environment / "bin" / "connprobe"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    made = Installed(tmp_path_factory.mktemp("wheel"))
    build = ("build", "--wheel", "--no-isolation", "--outdir", made.home)
    made.run(sys.executable, "-m", *build, CHECKOUT, timeout_s=120)
    (wheel,) = made.home.glob("*.whl")
    made.run(sys.executable, "-m", "venv", made.environment)
    pins = CHECKOUT / "scripts" / "constraints.txt"
    made.run(made.python, "-m", "pip", "install", "--quiet", "-c", pins, wheel, timeout_s=240)
    return made


@pytest.mark.timeout(300)
def test_nothing_comes_from_the_checkout(installed: Installed) -> None:
    listing = "import sys, connprobe.app; print(*(getattr(m, '__file__', '') for m in sys.modules.values()))"
    files = [Path(name) for name in installed.run(installed.python, "-c", listing).split() if name != "None"]
    assert any(file.is_relative_to(installed.environment) for file in files)
    assert [file for file in files if file.is_relative_to(CHECKOUT)] == []


@pytest.mark.timeout(300)
def test_the_version_is_that_of_the_source(installed: Installed) -> None:
    source = (CHECKOUT / "cli" / "connprobe" / "version.py").read_text()
    version = installed.run(installed.connprobe, "--version").split()[-1]
    assert f'"{version}"' in source


@pytest.mark.timeout(300)
def test_it_holds_connections(installed: Installed) -> None:
    results = installed.home / "results"
    command = ("hold", "--count", "499", "--for", "1s", "--json", "--results", results)
    record = json.loads(installed.run(installed.connprobe, *command))
    assert (record["held"], record["failed"], record["dropped"]) == (499, 0, 0)
    assert any(results.rglob("run.json"))


@pytest.mark.timeout(300)
def test_the_profiles_are_in_it(installed: Installed) -> None:
    for profile in (CHECKOUT / "sysctl.d").glob("*.conf"):
        shown = installed.run(installed.connprobe, "sysctl", "show", profile.stem)
        (source,) = (line.strip() for line in shown.splitlines() if line.startswith("  from "))
        file = Path(source.removeprefix("from "))
        assert file.is_relative_to(installed.environment)
        assert file.read_bytes() == profile.read_bytes()


@pytest.mark.timeout(300)
def test_the_man_page_is_where_man_looks(installed: Installed) -> None:
    page = installed.environment / "share" / "man" / "man1" / "connprobe.1"
    assert page.read_text() == (CHECKOUT / "docs" / "connprobe.1").read_text()


@pytest.mark.timeout(300)
def test_the_probes_came_along(installed: Installed) -> None:
    listing = "from connprobe.data import data_dir; print(*(p.name for p in data_dir('probes').iterdir()))"
    found = installed.run(installed.python, "-c", listing).split()
    assert sorted(found) == sorted(path.name for path in (CHECKOUT / "probes").iterdir())


@pytest.mark.timeout(300)
def test_the_reference_servers_came_along(installed: Installed) -> None:
    names = "(path.name for path in data_dir('targets').iterdir() if path.is_file())"
    listing = f"from connprobe.data import data_dir; print(*{names})"
    found = installed.run(installed.python, "-c", listing).split()
    assert sorted(found) == sorted(path.name for path in (CHECKOUT / "targets").iterdir() if path.is_file())


@pytest.mark.timeout(300)
def test_what_is_loaded_into_node_came_along(installed: Installed) -> None:
    listing = "from connprobe.observe.runtimes.preloaded import PRELOAD; print(PRELOAD.parent)"
    place = Path(installed.run(installed.python, "-c", listing).strip())
    assert place.is_relative_to(installed.environment)
    sources = list((CHECKOUT / "cli/connprobe/observe/runtimes").glob("*.cjs"))
    assert len(sources) == 2
    for source in sources:
        assert (place / source.name).read_bytes() == source.read_bytes()
