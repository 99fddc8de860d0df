"""Turns of listeners: how evenly connections come out, whatever the processes do meanwhile."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connprobe.plan.capacity import FD_RESERVE, server_processes_for
from connprobe.plan.turns import LAST, LEAST_ROOM, MOST_AHEAD, SHARE, Turns, at_a_time, passed_on

BURST, ACCEPTS = 128, 64


class Listeners:
    """Connections come in bursts; each process accepts some of what waits, when it runs."""

    def __init__(self, number: int, having: int, room: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.turns: Turns = (0, having)
        self.waiting, self.accepted = [0] * number, [0] * number
        self.room = room

    def come(self, number: int) -> None:
        first, having = self.turns
        for _ in range(number):
            self.waiting[(first + self.random.randrange(having)) % len(self.waiting)] += 1

    def run(self, place: int) -> None:
        took = min(self.waiting[place], ACCEPTS, self.room - self.accepted[place])
        full = took < min(self.waiting[place], ACCEPTS)
        if took or full:
            self.waiting[place] -= took
            self.accepted[place] += took
            passed = passed_on(
                self.turns, place, len(self.waiting), self.room, self.accepted[place], full=full
            )
            self.turns = passed or self.turns

    def serve(self, count: int, runs: float, stopped: int = -1) -> None:
        """runs: how probably a process does between two bursts."""
        while count or any(self.waiting[place] for place in range(len(self.waiting)) if place != stopped):
            self.come(min(BURST, count))
            count -= min(BURST, count)
            for place in self.random.sample(range(len(self.waiting)), len(self.waiting)):
                if place != stopped and (not count or self.random.random() < runs):
                    self.run(place)


@pytest.mark.parametrize("runs", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_a_plan_of_many_processes_has_room_for_what_comes_to_each(cpus: int, runs: float) -> None:
    count, room = 400_000, 20_000 - FD_RESERVE
    number = server_processes_for(count, 20_000, cpus)
    listeners = Listeners(number, at_a_time(number, room, cpus), room, seed=cpus)
    listeners.serve(count, runs)
    assert sum(listeners.accepted) == count  # or some would wait for descriptors for ever
    assert max(listeners.accepted) < room


def test_one_that_stops_for_good_gets_no_more_than_its_part_of_the_turns() -> None:
    listeners = Listeners(8, 2, 20_000, seed=1)
    listeners.serve(80_000, 1.0, stopped=3)
    assert listeners.waiting[3] < 2 * 80_000 / 8
    assert min(listeners.accepted[:3] + listeners.accepted[4:]) > 0.8 * (80_000 - listeners.waiting[3]) / 7


def test_one_that_is_full_has_no_turn_any_more() -> None:
    assert passed_on((5, 2), 1, 4, 20_000, 0, full=True) == (6, 3)


def test_who_got_too_many_at_once_ends_the_turns_of_a_few() -> None:
    assert passed_on((0, 2), 0, 8, 20_000, SHARE + MOST_AHEAD, full=False) == (1, 2)
    assert passed_on((0, 2), 0, 8, 20_000, SHARE + MOST_AHEAD + 1, full=False) == (1, 7)


def test_the_last_connections_are_for_all() -> None:
    share = 20_000 // SHARE * SHARE
    first = (share // SHARE - 1) * 8
    assert passed_on((first, 2), 0, 8, share + LAST, share, full=False) == (first + 1, 2)
    assert passed_on((first, 2), 0, 8, share + LAST - 1, share, full=False) == (first + 1, 7)


@given(st.integers(0, 1 << 40), st.integers(2, 100), st.data(), st.integers(0, 1 << 30), st.booleans())
def test_whose_turn_it_is_not_passes_nothing_on(
    first: int, listeners: int, data: st.DataObject, accepted: int, full: bool
) -> None:
    having = data.draw(st.integers(1, listeners - 1))
    place = data.draw(st.integers(0, listeners - 1))
    passed = passed_on((first, having), place, listeners, 20_000, accepted, full=full)
    if (place - first) % listeners >= having:
        assert passed is None
    elif passed is not None:
        assert passed[0] % listeners == (place + 1) % listeners
        assert first < passed[0] <= first + having
        assert having <= passed[1] or passed[1] == listeners - 1


@given(st.integers(1, 512), st.integers(1, 1 << 20), st.integers(1, 512))
def test_few_at_a_time_only_where_each_has_much_room(listeners: int, room: int, cpus: int) -> None:
    number = at_a_time(listeners, room, cpus)
    assert number == (min(listeners, cpus) if room >= LEAST_ROOM else listeners)
