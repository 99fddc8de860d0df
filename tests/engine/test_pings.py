"""The times of pings, against real sockets whose peers answer when the test says."""

import select
import socket
from collections.abc import Iterator

import pytest

from connprobe.engine.held import HeldSet, Lost
from connprobe.engine.pings import PINGS_PER_TURN, Pings
from connprobe.wire.websocket import PING, PONG, FrameReader, frame


class Peers:
    def __init__(self, count: int) -> None:
        self.held = HeldSet(1024, socket.AF_UNIX, websocket=True, longpoll=False, tls=False)
        self.dropped: list[tuple[int, str, str]] = []
        self.peers: dict[int, socket.socket] = {}
        for _ in range(count):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            self.peers[ours.fileno()] = theirs
            self.held.add(ours, b"")

    def drop(self, fd: int, cause: str, detail: str) -> None:
        self.dropped.append((fd, cause, detail))
        self.held.close(fd)

    def answer(self, fds: list[int]) -> int:
        """Those that were pinged answer; how many were."""
        pinged = 0
        for fd in fds:
            if select.select([self.peers[fd]], [], [], 0)[0]:
                for event in FrameReader(from_client=True, keep=100).feed(self.peers[fd].recv(4096)):
                    assert event.opcode == PING
                    self.peers[fd].send(frame(PONG, event.payload))
                    pinged += 1
                try:
                    self.held.readable(fd)
                except Lost as lost:
                    self.drop(fd, lost.cause, lost.detail)
        return pinged


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers(23)
    yield made
    for fd, peer in made.peers.items():
        peer.close()
        if made.held.state[fd]:
            made.held.close(fd)


def test_a_slow_pong_is_in_time_until_the_timeout(peers: Peers) -> None:
    """Also when the interval is shorter: nothing is pinged again that still owes a pong."""
    pings = Pings(peers.held, peers.drop, interval_s=0.2, timeout_s=10.0)
    now = 1000.0
    for _ in range(100):
        now += 0.05
        pings.tick(now, 0.05)
    assert peers.held.pings == peers.held.awaiting == 23
    assert peers.answer(list(peers.peers)) == 23
    assert peers.held.awaiting == 0
    assert peers.dropped == []


def test_the_silent_are_dropped_and_the_others_stay(peers: Peers) -> None:
    pings = Pings(peers.held, peers.drop, interval_s=1.0, timeout_s=3.0)
    silent = list(peers.peers)[::2]
    others = [fd for fd in peers.peers if fd not in silent]
    now = 1000.0
    for _ in range(100):
        now += 0.05
        pings.tick(now, 0.05)
        peers.answer(others)
    assert sorted(fd for fd, _, _ in peers.dropped) == sorted(silent)
    assert {(cause, detail) for _, cause, detail in peers.dropped} == {("timeout", "no pong")}
    assert peers.held.count == len(others)


def test_each_is_pinged_once_in_an_interval(peers: Peers) -> None:
    pings = Pings(peers.held, peers.drop, interval_s=2.0, timeout_s=3.0)
    now, answered = 1000.0, 0
    for _ in range(400):
        now += 0.05
        pings.tick(now, 0.05)
        answered += peers.answer(list(peers.peers))
    assert 9 * 23 <= answered <= 10 * 23
    assert peers.dropped == []


def test_rounds_that_come_round_again_are_not_mistaken(peers: Peers) -> None:
    """A thousand rounds of pings, each answered late but in time."""
    pings = Pings(peers.held, peers.drop, interval_s=0.5, timeout_s=1.0)
    now = 1000.0
    for turn in range(20_000):
        now += 0.05
        pings.tick(now, 0.05)
        if turn % 17 == 0:
            peers.answer(list(peers.peers))
    assert peers.dropped == []


def test_the_check_waits_for_all_and_then_no_longer(peers: Peers) -> None:
    pings = Pings(peers.held, peers.drop, interval_s=0.0, timeout_s=3.0)
    pings.begin_check()
    assert PINGS_PER_TURN > 23
    assert pings.check(1000.0) is False
    peers.answer(list(peers.peers)[:20])
    assert pings.check(1002.9) is False
    assert pings.check(1003.1) is True
    assert len(peers.dropped) == 3
    assert peers.held.count == 20
