"""Against real listeners: the probe counts what sock_diag, /proc/net/netstat and the test itself saw."""

import socket
from pathlib import Path

import pytest

from connprobe.kernel.accept_queue import AcceptQueue, AcceptQueues, Reading, probe
from kernel.sockets import Load, Sockets


def of(reading: Reading, listener: socket.socket | int) -> AcceptQueue:
    inode = listener if isinstance(listener, int) else inode_of(listener)
    (queue,) = (queue for queue in reading.listeners if queue.inodes == (inode,))
    return queue


def inode_of(one: socket.socket) -> int:
    return Path(f"/proc/self/fd/{one.fileno()}").stat().st_ino


def listen_overflows() -> int:
    names, values = (
        line.split()
        for line in Path("/proc/net/netstat").read_text().splitlines()
        if line.startswith("TcpExt:")
    )
    return int(values[names.index("ListenOverflows")])


@pytest.mark.parametrize("rung", range(2))
def test_a_listener_that_never_accepts(load: Load, sockets: Sockets, rung: int) -> None:
    offered = probe()
    live = load(offered._replace(rungs=offered.rungs[rung:]))
    queues = AcceptQueues(live)
    before = listen_overflows()
    listener = sockets.listen(3)
    sockets.connect(listener, 23)
    queue = of(queues.read(), listener)
    assert (queue.depth, queue.depth_max, queue.capacity, queue.enqueued, queue.accepted) == (4, 4, 4, 4, 0)
    assert queue.overflows >= 19
    assert listen_overflows() - before >= queue.overflows
    assert [index for index, count in enumerate(queue.depths) if count] == [1, 2, 3, 4]
