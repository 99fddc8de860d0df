import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.unshare and os.setns come with Python 3.12

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
    if os.geteuid() != 0:
        pytest.skip("needs root to make a network namespace: sudo .venv/bin/pytest")
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}: run with CAP_SYS_ADMIN")
        try:
            run_ip("link add probe0 type veth peer name peer0")
            for name in ("probe0", "peer0"):
                run_ip(f"link set {name} addrgenmode none")
            for name in ("lo", "probe0", "peer0"):
                run_ip(f"link set {name} up")
            yield
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                os._exit(70)  # whatever ran next would run in the wrong namespace
    finally:
        os.close(home)
