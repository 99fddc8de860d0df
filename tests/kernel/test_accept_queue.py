"""Against real listeners: the probe counts what sock_diag, /proc/net/netstat and the test itself saw."""

import os
import socket
import time
from pathlib import Path

import pytest

from connprobe.kernel.accept_queue import AcceptQueue, AcceptQueues, Look, Looks, Reading, probe, summed
from connprobe.kernel.live import Live
from connprobe.kernel.probe import Probe
from connprobe.plan.histogram import BUCKETS, bucket
from kernel.sockets import Load, Sockets, drops_of, inode_of, other_namespace, tcp_counter

RUNGS = [rung.name for rung in probe().rungs]


@pytest.fixture(params=RUNGS, scope="module")
def offered(request: pytest.FixtureRequest) -> Probe:
    """The probe with one rung alone, where this kernel has it: each must count the same."""
    one = probe()
    return one._replace(rungs=tuple(rung for rung in one.rungs if rung.name == request.param))


@pytest.fixture(scope="module")
def served(load_once: Load, offered: Probe) -> Live:
    return load_once(offered)


@pytest.fixture
def queues(served: Live) -> AcceptQueues:
    return AcceptQueues(served)


def of(reading: Reading, listener: socket.socket | int) -> AcceptQueue:
    inode = listener if isinstance(listener, int) else inode_of(listener)
    (queue,) = (queue for queue in reading.listeners if queue.inodes == (inode,))
    return queue


def hits(queue: AcceptQueue) -> dict[int, int]:
    return {index: count for index, count in enumerate(queue.depths) if count}


def test_a_listener_that_never_accepts(namespace: None, queues: AcceptQueues, sockets: Sockets) -> None:
    listener = sockets.listen(3)
    clients = sockets.connect(listener, 23)
    while (
        True
    ):  # dropped SYNs are sent again each second: look at a moment when none came, after the first 19
        before = tcp_counter("ListenOverflows")
        queue = of(queues.read(), listener)
        drops = drops_of(listener)
        if 19 <= before == tcp_counter("ListenOverflows"):
            break
    assert (queue.depth, queue.depth_max, queue.capacity) == (4, 4, 4)
    assert (queue.enqueued, queue.accepted) == (4, 0)
    assert queue.overflows == queue.drops == drops == before
    assert hits(queue) == {1: 1, 2: 1, 3: 1, 4: 1}
    assert (str(queue.at), queue.at.netns) == (
        f"127.0.0.1:{listener.getsockname()[1]}",
        Path("/proc/thread-self/ns/net").stat().st_ino,
    )
    assert len(clients) == 23


def test_the_depth_is_counted_in_the_buckets_of_the_histogram(queues: AcceptQueues, sockets: Sockets) -> None:
    listener = sockets.listen(500)
    sockets.connect(listener, 307)
    expected = [0] * BUCKETS
    for depth in range(1, 308):
        expected[bucket(depth)] += 1
    queue = of(queues.read(), listener)
    assert list(queue.depths) == expected
    assert (queue.depth_max, queue.capacity) == (307, 501)


def test_the_maximum_is_that_of_the_interval(queues: AcceptQueues, sockets: Sockets) -> None:
    listener = sockets.listen(100)
    sockets.connect(listener, 23)
    for _ in range(21):
        sockets.accept(listener)
    first = of(queues.read(), listener)
    assert (first.depth, first.depth_max, first.accepted) == (2, 23, 21)
    sockets.connect(listener, 3)
    for _ in range(4):
        sockets.accept(listener)
    second = of(queues.read(), listener)
    assert (second.depth, second.depth_max, second.enqueued, second.accepted) == (1, 5, 26, 25)
    assert of(queues.read(), listener).depth_max == 1


def test_connections_that_waited_before_the_probe_came(load: Load, sockets: Sockets) -> None:
    listener = sockets.listen(3)
    sockets.connect(listener, 6)
    queues = AcceptQueues(load(probe()))
    for _ in range(3):
        sockets.accept(listener)
    queue = of(queues.read(), listener)
    assert (queue.depth, queue.depth_max, queue.accepted) == (1, 1, 3)


@pytest.mark.parametrize(
    ("bound", "through", "shown"),
    [
        ("::1", "::1", "[::1]"),
        ("::", "::1", "[::]"),
        ("::", "127.0.0.1", "[::]"),
        ("0.0.0.0", "127.0.0.3", "0.0.0.0"),
        ("::ffff:127.0.0.1", "127.0.0.1", "127.0.0.1"),  # as Java has all its IPv4
    ],
)
def test_other_addresses(
    queues: AcceptQueues, sockets: Sockets, bound: str, through: str, shown: str
) -> None:
    listener = sockets.listen(20, bound)
    sockets.connect(listener, 7, through)
    sockets.accept(listener)
    queue = of(queues.read(), listener)
    assert (queue.enqueued, queue.accepted, queue.depth) == (7, 1, 6)
    assert str(queue.at) == f"{shown}:{listener.getsockname()[1]}"


def test_two_listeners(queues: AcceptQueues, sockets: Sockets) -> None:
    one, two = sockets.listen(10), sockets.listen(20, "127.0.0.2")
    sockets.connect(one, 5)
    sockets.connect(two, 13)
    reading = queues.read()
    assert (of(reading, one).enqueued, of(reading, one).capacity) == (5, 11)
    assert (of(reading, two).enqueued, of(reading, two).capacity) == (13, 21)
    assert "listeners_full" not in reading.lost


def test_a_group_that_shares_a_port_is_told_apart_and_summed(queues: AcceptQueues, sockets: Sockets) -> None:
    first = sockets.listen(100, reuse=True)
    port = first.getsockname()[1]
    group = [first, *(sockets.listen(100, port=port, reuse=True) for _ in range(2))]
    sockets.connect(first, 97, group=group)
    reading = queues.read()
    told = [of(reading, member) for member in group]
    for member, queue in zip(group, told, strict=True):
        member.setblocking(False)
        for _ in range(queue.enqueued):
            sockets.accept(member)
        with pytest.raises(BlockingIOError):
            member.accept()
    (whole,) = (queue for queue in summed(queues.read().listeners) if queue.at.port == port)
    assert (whole.enqueued, whole.accepted, whole.capacity, whole.depth) == (97, 97, 303, 0)
    assert set(whole.inodes) == {inode_of(member) for member in group}
    assert whole.depth_max == 0


def test_a_listener_closed_while_connections_wait(queues: AcceptQueues, sockets: Sockets) -> None:
    listener = sockets.listen(10)
    inode, port = inode_of(listener), listener.getsockname()[1]
    sockets.connect(listener, 5)
    sockets.accept(listener)
    listener.close()
    queue = of(queues.read(), inode)
    assert (queue.closed, queue.enqueued, queue.accepted, queue.depth) == (True, 5, 1, 4)
    again = sockets.listen(2, port=port)
    sockets.connect(again, 1)
    reading = queues.read()
    assert [queue.inodes for queue in reading.listeners if queue.at.port == port] == [(inode_of(again),)]
    assert (of(reading, again).enqueued, of(reading, again).capacity) == (1, 3)


def test_the_same_address_in_another_namespace(queues: AcceptQueues, sockets: Sockets) -> None:
    here = sockets.listen(3)
    with other_namespace():
        there = sockets.listen(5, port=here.getsockname()[1])
        sockets.connect(there, 11)
    sockets.connect(here, 2)
    reading = queues.read()
    assert (of(reading, here).enqueued, of(reading, here).overflows) == (2, 0)
    assert (of(reading, there).enqueued, of(reading, there).capacity) == (6, 6)
    while of(reading, there).overflows < 5:
        reading = queues.read()
    assert of(reading, here).at.netns != of(reading, there).at.netns
    assert len([queue for queue in summed(reading.listeners) if queue.at.port == here.getsockname()[1]]) == 2


def test_a_server_that_forks_after_listen(queues: AcceptQueues, sockets: Sockets) -> None:
    listener = sockets.listen(50)
    sockets.connect(listener, 23)
    for count in (7, 11):
        pid = os.fork()
        if pid == 0:
            for _ in range(count):
                listener.accept()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    queue = of(queues.read(), listener)
    assert (queue.enqueued, queue.accepted, queue.depth) == (23, 18, 5)


def test_handshakes_with_syn_cookies(namespace: None, queues: AcceptQueues, sockets: Sockets) -> None:
    Path("/proc/sys/net/ipv4/tcp_syncookies").write_text(
        "2"
    )  # for each, not only once the half-open are too many
    listener = sockets.listen(20)
    sockets.connect(listener, 7)
    assert tcp_counter("SyncookiesRecv") == 7
    queue = of(queues.read(), listener)
    assert (queue.enqueued, queue.depth, hits(queue)) == (7, 7, dict.fromkeys(range(1, 8), 1))


def test_tcp_fast_open(namespace: None, queues: AcceptQueues, sockets: Sockets) -> None:
    Path("/proc/sys/net/ipv4/tcp_fastopen").write_text(
        str(0x1 | 0x2 | 0x4 | 0x200 | 0x400)
    )  # without cookies
    listener = sockets.listen(20)
    for _ in range(5):
        (client,) = sockets.connect(listener, 1, "127.0.0.1", fast_open=b"hello")
        assert client is not None
    assert tcp_counter("TCPFastOpenPassive") == 5
    assert sockets.accept(listener).recv(9) == b"hello"
    queue = of(queues.read(), listener)
    assert (queue.enqueued, queue.accepted, queue.depth, queue.depth_max) == (5, 1, 4, 5)


def test_an_mptcp_listener_whose_clients_may_speak_tcp(queues: AcceptQueues, sockets: Sockets) -> None:
    listener = sockets.listen(20, protocol=socket.IPPROTO_MPTCP)
    sockets.connect(listener, 7)
    sockets.connect(listener, 5, protocol=socket.IPPROTO_MPTCP)
    for _ in range(4):
        sockets.accept(listener)
    queue = of(queues.read(), listener)
    assert (queue.enqueued, queue.accepted, queue.depth_max, queue.capacity) == (12, 4, 12, 21)
    assert not queue.closed


def test_a_listener_that_was_never_bound(queues: AcceptQueues, sockets: Sockets) -> None:
    with socket.socket() as listener:
        listener.listen(5)
        queues.read()
        sockets.connect(listener, 3, "127.0.0.1")
        queue = of(queues.read(), listener)
        assert (queue.enqueued, queue.at.port) == (3, listener.getsockname()[1])


def test_a_backlog_that_is_changed(queues: AcceptQueues, sockets: Sockets) -> None:
    listener = sockets.listen(3)
    sockets.connect(listener, 1)
    assert of(queues.read(), listener).capacity == 4
    listener.listen(17)
    assert of(queues.read(), listener).capacity == 18


def test_more_listeners_than_there_is_room_for(load: Load, sockets: Sockets) -> None:
    queues = AcceptQueues(load(probe(listeners=2)))
    for _ in range(5):
        sockets.connect(sockets.listen(3))
    reading = queues.read()
    assert len(reading.listeners) <= 2
    assert reading.lost["listeners_full"] >= 3
    assert not reading.complete


def test_a_hook_that_is_torn_away_is_shown(load: Load, sockets: Sockets) -> None:
    live = load(probe())
    queues = AcceptQueues(live)
    label = "raw_tracepoint inet_sock_set_state"
    assert live.detached() == ()
    os.close(live.hooks[label])
    with Path(os.devnull).open() as file:  # which is given the number that has become free
        assert live.detached() == (label,)
        assert queues.read().lost[f"detached {label}"] == 1
        live.close()
        file.read()  # and is still open


def looks_at(looks: Looks, listener: socket.socket | int) -> list[Look]:
    inode = listener if isinstance(listener, int) else inode_of(listener)
    found, lost = looks.read({inode})
    assert lost == 0
    return found


def came_us(look: Look) -> int:
    """When the one came that has waited longest."""
    assert look.oldest_us is not None
    return look.oldest_us


def test_who_waits_longest_is_seen_at_each_arrival(
    served: Live, queues: AcceptQueues, sockets: Sockets
) -> None:
    listener, other = sockets.listen(50), sockets.listen(50, "::1")
    queues.read()
    looks = Looks(served)
    called, done = [], []
    for _ in range(7):
        called.append(time.monotonic_ns() // 1000)
        sockets.connect(listener)
        sockets.connect(other)
        done.append(time.monotonic_ns() // 1000)
        time.sleep(0.002)
    for _ in range(3):
        sockets.accept(listener)
    sockets.connect(listener)
    seen = looks_at(looks, listener)
    assert [look.arrived for look in seen] == [True] * 8
    for index, look in enumerate(seen[:7]):
        assert called[index] <= look.time_us <= done[index]
        assert called[0] <= came_us(look) <= done[0]
    assert called[3] <= came_us(seen[7]) <= done[3]


def test_a_reading_looks_too_and_so_does_the_end(
    served: Live, queues: AcceptQueues, sockets: Sockets
) -> None:
    listener = sockets.listen(50)
    inode = inode_of(listener)
    queues.read()
    looks = Looks(served)
    queues.read()
    assert looks_at(looks, listener) == []  # nobody came, and nobody waited
    before = time.monotonic_ns() // 1000
    sockets.connect(listener, 2)
    queues.read()
    assert [(look.arrived, look.closed) for look in looks_at(looks, listener)] == [
        (True, False),
        (True, False),
        (False, False),
    ]
    for _ in range(2):
        sockets.accept(listener)
    queues.read()
    (empty,) = looks_at(looks, listener)
    assert empty.oldest_us == empty.time_us + 1
    sockets.connect(listener, 1)
    looks_at(looks, listener)
    listener.close()
    (last,) = looks_at(looks, inode)
    assert (last.arrived, last.closed) == (False, True)
    assert before < came_us(last) < last.time_us


def test_looks_that_were_written_over_are_counted(load: Load, sockets: Sockets) -> None:
    live = load(probe(looks=16))
    looks = Looks(live)
    listener = sockets.listen(100)
    mine = {inode_of(listener)}
    sockets.connect(listener, 53)
    found, lost = looks.read(mine)
    assert 0 < len(found) <= 16
    assert lost == 0  # before the first reading none is missed
    sockets.connect(listener, 29)
    found, lost = looks.read(mine)
    assert len(found) <= 16
    assert len(found) + lost >= 29  # and those of others on this machine


def counted(live: Live) -> int:
    found = live.maps["looked"].get(bytes(4))
    assert found is not None
    return int.from_bytes(found[0], "little")


def test_a_look_that_is_not_written_yet_waits_for_the_next_reading(load: Load, sockets: Sockets) -> None:
    """The count is raised before the look is written: here by somebody who writes none."""
    live = load(probe(looks=1024))
    listener = sockets.listen(1024)
    looks = Looks(live)
    mine = {inode_of(listener)}
    sockets.connect(listener, 3)
    live.maps["looked"].set(bytes(4), (counted(live) + 1).to_bytes(8, "little"))
    sockets.connect(listener, 2)
    assert len(looks.read(mine)[0]) == 3
    assert looks.read(mine) == ([], 0)
    sockets.connect(listener, 300)
    found, lost = looks.read(mine)
    assert (len(found), lost) == (302, 1)  # by now it will not come any more
