"""Which listener of an SO_REUSEPORT group a connection goes to: by the kernel, with real connections."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from connprobe.plan.turns import SHARE
from connprobe.serve.steering import Steering, shared_turns

ROOM = 20_000


class Group:
    """Listeners on one port, all of this process."""

    def __init__(self, stack: ExitStack, number: int, at_a_time: int) -> None:
        self._stack = stack
        self.listeners: list[socket.socket] = []
        self.steering: list[Steering] = []
        self.turns = shared_turns(at_a_time)
        self.accepted: Counter[int] = Counter()
        address = ("127.0.0.1", 0)
        for place in range(number):
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            address = listener.getsockname()
            listener.listen(4096)
            listener.setblocking(False)
            self.listeners.append(listener)
            self.steering.append(Steering(listener, place, number, ROOM, self.turns))

    def connect(self, number: int) -> None:
        address = self.listeners[0].getsockname()
        for _ in range(number):
            self._stack.enter_context(socket.create_connection(address))

    def accept(self, place: int, *, full: bool = False) -> int:
        """All that wait at this one."""
        came = 0
        while True:
            try:
                self._stack.enter_context(self.listeners[place].accept()[0])
            except BlockingIOError:
                break
            came += 1
        self.accepted[place] += came
        if came or full:
            self.steering[place].accepted(self.accepted[place], full=full)
        return came

    def serve(self, number: int, *stuck: int, burst: int = 64) -> None:
        """Connections in bursts, of which each listener but `stuck` ones accepts what it has."""
        for _ in range(number // burst):
            self.connect(burst)
            for place in range(len(self.listeners)):
                if place not in stuck:
                    self.accept(place)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_so_many_get_connections_at_a_time(stack: ExitStack) -> None:
    group = Group(stack, 5, 2)
    group.connect(100)
    came = [group.accept(place) for place in range(5)]
    assert came[2:] == [0, 0, 0]
    assert sum(came) == 100
    assert min(came[:2]) > 20  # of a fair coin less than once in 10**9


def test_the_next_ones_follow_and_all_get_as_many(stack: ExitStack) -> None:
    group = Group(stack, 3, 2)
    group.serve(3 * 4 * SHARE)
    assert sum(group.accepted.values()) == 3 * 4 * SHARE
    assert max(group.accepted.values()) - min(group.accepted.values()) <= 2 * SHARE
    assert group.turns[0] >= 3 * 3


def test_one_that_does_not_accept_holds_nobody_up(stack: ExitStack) -> None:
    group = Group(stack, 4, 2)
    group.serve(4 * 4 * SHARE, 1)
    assert group.accepted[1] == 0
    assert min(group.accepted[place] for place in (0, 2, 3)) >= SHARE


def test_one_that_is_full_lets_all_others_have_its_turn(stack: ExitStack) -> None:
    group = Group(stack, 4, 1)
    group.connect(10)
    assert group.accept(0, full=True) == 10
    group.connect(10)
    came = [group.accept(place) for place in range(4)]
    assert (came[0], sum(came)) == (0, 10)


def test_who_is_not_in_turn_changes_nothing(stack: ExitStack) -> None:
    group = Group(stack, 4, 2)
    group.steering[3].accepted(10 * SHARE, full=True)
    assert group.turns[0] == 0
    group.connect(20)
    assert [group.accept(place) for place in (2, 3)] == [0, 0]


def test_where_it_is_refused_connections_spread_as_before(stack: ExitStack) -> None:
    """A socket without SO_REUSEPORT takes no such program (EINVAL)."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    steering = Steering(listener, 0, 4, ROOM, turns := shared_turns(2))
    steering.accepted(10 * SHARE, full=False)
    assert turns[0] == 0
