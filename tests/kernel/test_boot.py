"""That scripts/kernels boots the kernel it says, with what all probes presuppose, and left as a host is."""

import os
import platform
import socket
import struct
from pathlib import Path

import pytest

from connprobe.observe import sockdiag

ASKED_FOR = os.environ.get("CONNPROBE_TEST_KERNEL")


@pytest.mark.skipif(ASKED_FOR is None, reason="no kernel was asked for: run scripts/kernels")
def test_the_kernel_is_the_one_asked_for() -> None:
    assert platform.release() == ASKED_FOR


def test_the_kernel_describes_its_types() -> None:
    btf = Path("/sys/kernel/btf/vmlinux")
    if not btf.exists():
        pytest.skip("no BTF: boot a kernel with CONFIG_DEBUG_INFO_BTF, e.g. with scripts/kernels")
    magic, version = struct.unpack("=HB", btf.read_bytes()[:3])
    assert (magic, version) == (0xEB9F, 1)
    assert Path("/sys/kernel/tracing").is_dir()  # where tracefs can be mounted


def test_sockets_are_told_of_where_that_is_a_module() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = sockdiag.listen_sockets(listener.getsockname()[1])
        assert [each.inode for each in found] == [os.fstat(listener.fileno()).st_ino]
