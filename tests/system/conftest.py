import subprocess
from collections.abc import Callable, Iterator

import pytest

from netns import network_namespace

Ip = Callable[[str], str]


def run_ip(command: str) -> str:
    """Run ip(8) in the namespace of this process and give its output."""
    return subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def ip() -> Ip:
    return run_ip


@pytest.fixture
def namespace() -> Iterator[None]:
    """An own network namespace, with lo and the pair probe0 and peer0 up, and no address but lo's."""
    with network_namespace():
        run_ip("link add probe0 type veth peer name peer0")
        for name in ("probe0", "peer0"):
            run_ip(f"link set {name} addrgenmode none")
        for name in ("lo", "probe0", "peer0"):
            run_ip(f"link set {name} up")
        yield
