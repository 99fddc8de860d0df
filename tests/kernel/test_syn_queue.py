"""Against handshakes that nobody ends: the probe shows what ss and /proc/net/netstat show."""

import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from connprobe.kernel.live import Live
from connprobe.kernel.probe import Probe
from connprobe.kernel.syn_queue import Reading, SynQueue, SynQueues, probe
from kernel import half_open
from kernel.half_open import send_resets, send_syns, set_sysctl
from kernel.sockets import Load, Sockets, drops_of, inode_of, other_namespace, tcp_counter

pytestmark = pytest.mark.usefixtures("namespace")


@pytest.fixture(params=[True, False], ids=["sk_data_ready", "tcp_retransmit_synack"], scope="module")
def offered(request: pytest.FixtureRequest) -> Probe:
    """The probe with and without sk_data_ready, where this kernel has it: each must count the same."""
    one = probe()
    return one._replace(
        rungs=tuple(rung for rung in one.rungs if ("HOOK_DATA_READY" in rung.defines) == request.param)
    )


@pytest.fixture(scope="module")
def served(load_once: Load, offered: Probe) -> Live:
    return load_once(offered)


@pytest.fixture
def queues(namespace: None, served: Live) -> SynQueues:
    half_open.prepare()
    return SynQueues(served)


def of(reading: Reading, listener: socket.socket | int) -> SynQueue:
    inode = listener if isinstance(listener, int) else inode_of(listener)
    (queue,) = (queue for queue in reading.listeners if queue.inode == inode)
    return queue


def until(queues: SynQueues, listener: socket.socket, sure: Callable[[SynQueue], bool]) -> SynQueue:
    """Read until it is so: SYNs are answered, and SYN-ACKs sent again, in their own time."""
    while not sure(queue := of(queues.read(), listener)):
        os.sched_yield()
    return queue


def half_open_by_ss() -> int:
    command = ["ss", "-tHn", "state", "syn-recv"]
    return len(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connections_that_stay_half_open(queues: SynQueues, sockets: Sockets, address: str) -> None:
    listener, other = sockets.listen(100, address), sockets.listen(100, address)
    send_syns(listener, 23)
    queue = until(queues, listener, lambda queue: queue.depth >= 23)
    assert (queue.depth, queue.depth_max, half_open_by_ss()) == (23, 23, 23)
    assert (queue.backlog, queue.drops, queue.flooded) == (100, 0, False)
    assert (of(queues.read(), other).depth, of(queues.read(), other).depth_max) == (0, 0)


def test_syn_acks_that_are_sent_again(queues: SynQueues, sockets: Sockets) -> None:
    listener, other = sockets.listen(100), sockets.listen(100, "::1")
    send_syns(listener, 23)
    send_syns(other, 7)
    for one, count in ((listener, 23), (other, 7)):
        assert until(queues, one, lambda queue: queue.young == 0 < queue.depth).depth == count
    while True:
        reading = queues.read()
        told = [of(reading, one).retransmits for one in (listener, other)]
        if sum(told) == tcp_counter("TCPSynRetrans"):
            break
        os.sched_yield()
    assert told[0] >= 23
    assert told[1] >= 7
    assert reading.lost == {}


@pytest.mark.parametrize("syncookies", [0, 1, 2])
def test_more_than_the_backlog(queues: SynQueues, sockets: Sockets, syncookies: int) -> None:
    set_sysctl("net.ipv4.tcp_syncookies", syncookies)
    listener = sockets.listen(10)
    send_syns(listener, 31)
    queue = until(
        queues,
        listener,
        lambda queue: queue.depth + tcp_counter("SyncookiesSent") + tcp_counter("ListenDrops") == 31,
    )
    assert (queue.backlog, queue.syncookies) == (10, syncookies)
    assert queue.drops == tcp_counter("ListenDrops") == tcp_counter("TCPReqQFullDrop") == drops_of(listener)
    assert half_open_by_ss() == queue.depth
    if syncookies == 2:
        assert (queue.depth, queue.drops, queue.flooded) == (0, 0, False)
    else:
        assert queue.depth in (10, 11)  # "at least the backlog" was made "more than" it
        assert queue.flooded
        assert queue.drops == (31 - queue.depth if syncookies == 0 else 0)


def test_more_than_three_quarters_of_tcp_max_syn_backlog(queues: SynQueues, sockets: Sockets) -> None:
    set_sysctl("net.ipv4.tcp_syncookies", 0)
    set_sysctl("net.ipv4.tcp_max_syn_backlog", 8)
    listener = sockets.listen(100)
    send_syns(listener, 31)
    queue = until(queues, listener, lambda queue: queue.depth + queue.drops == 31)
    assert (queue.depth, queue.drops, queue.max_syn_backlog) == (7, 24, 8)
    assert (queue.flooded, tcp_counter("TCPReqQFullDrop"), tcp_counter("ListenDrops")) == (False, 0, 24)


def test_the_maximum_is_seen_as_syn_acks_are_sent_again(queues: SynQueues, sockets: Sockets) -> None:
    set_sysctl("net.ipv4.tcp_synack_retries", 1)
    listener = sockets.listen(100)
    send_syns(listener, 13)
    while not tcp_counter("TCPSynRetrans") or half_open_by_ss():
        os.sched_yield()
    queue = of(queues.read(), listener)
    assert (queue.depth, queue.depth_max, queue.retransmits) == (0, 13, 13)
    assert of(queues.read(), listener).depth_max == 0


def test_the_maximum_is_seen_as_handshakes_end(queues: SynQueues, sockets: Sockets, served: Live) -> None:
    listener = sockets.listen(100)
    send_syns(listener, 13)
    while half_open_by_ss() < 13:
        os.sched_yield()
    sockets.connect(listener, 3)
    send_resets(listener, 13)
    while half_open_by_ss():
        os.sched_yield()
    queue = of(queues.read(), listener)
    assert queue.depth == 0
    if "raw_tracepoint sk_data_ready" in served.hooks:
        assert queue.depth_max == 13
    else:
        assert queue.depth_max in (0, 13)  # 13 where a second has passed meanwhile
    assert of(queues.read(), listener).depth_max == 0


def test_tcp_fast_open(queues: SynQueues, sockets: Sockets) -> None:
    """The child stands for the request, and sends its SYN-ACK again: it counts for the listener."""
    set_sysctl("net.ipv4.tcp_fastopen", 0x202)  # server, no cookie asked
    listener = sockets.listen(10)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 10)
    send_syns(listener, 1, b"early")
    sockets.accept(listener)
    queue = until(queues, listener, lambda queue: queue.retransmits > 0)
    assert (queue.retransmits, queue.depth) == (tcp_counter("TCPSynRetrans"), 0)


def test_a_listener_closed_with_connections_half_open(queues: SynQueues, sockets: Sockets) -> None:
    listener = sockets.listen(10)
    inode = inode_of(listener)
    send_syns(listener, 5)
    until(queues, listener, lambda queue: queue.depth == 5)
    listener.close()
    queue = of(queues.read(), inode)
    assert (queue.depth, queue.closed) == (5, True)
    assert all(queue.inode != inode for queue in queues.read().listeners)


def test_the_same_port_in_another_namespace(queues: SynQueues, sockets: Sockets) -> None:
    here = sockets.listen(20)
    with other_namespace():
        half_open.prepare()
        there = sockets.listen(20, port=here.getsockname()[1])
        set_sysctl("net.ipv4.tcp_syncookies", 0)
        send_syns(there, 7)
        until(queues, there, lambda queue: queue.depth == 7)
    reading = queues.read()
    assert (of(reading, here).depth, of(reading, here).depth_max) == (0, 0)
    assert (of(reading, there).depth, of(reading, there).syncookies) == (7, 0)
    assert of(reading, here).syncookies == 1
    assert of(reading, here).at.netns_cookie != of(reading, there).at.netns_cookie


def test_a_listener_that_was_there_before(load: Load, sockets: Sockets) -> None:
    half_open.prepare()
    listener = sockets.listen(20)
    send_syns(listener, 7)
    while half_open_by_ss() < 7:
        os.sched_yield()
    assert of(SynQueues(load(probe())).read(), listener).depth == 7


def test_more_listeners_than_there_is_room_for(load: Load, sockets: Sockets) -> None:
    queues = SynQueues(load(probe(listeners=2)))
    for _ in range(5):
        sockets.listen(3)
    reading = queues.read()
    assert len(reading.listeners) == 2
    assert reading.lost["listeners_full"] >= 3
    assert not reading.complete


def test_a_hook_that_is_torn_away_is_shown(load: Load) -> None:
    live = load(probe())
    queues = SynQueues(live)
    label = "raw_tracepoint tcp_retransmit_synack"
    os.close(live.hooks[label])
    assert queues.read().lost[f"detached {label}"] == 1
